//! The shares of a microVM whose caller is an ordinary user: cloning a mount takes a privilege that
//! such a caller has in a user namespace alone. A child enters one, with the monitor's maps and a
//! mount namespace, clones there, hands the trees over, and ends.
//!
//! ```text
//!   runtime ── fork ──▶ child: new user and mount namespaces
//!      ── maps written ──▶ root of them; opens each source again, is it the same? clones it
//!      ◀── one message for each tree, or what went wrong ──
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::shares::{OpenShare, ShareError, Sources};
use crate::host::id_maps::{self, IdMapError};
use crate::host::log::with_causes;
use crate::host::sys::{self, ForkSide};
use crate::host::user::User;
use crate::plan::SharePlan;
use crate::plan::own_users::UserMaps;

/// Longer than any message.
const MAX_MESSAGE: usize = 4096;

/// Why there are no trees.
#[derive(Debug, thiserror::Error)]
pub enum OpenerError {
    /// A step of this side.
    #[error("Cannot {step}")]
    Step {
        /// In words that complete `cannot …`.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The user namespace.
    #[error(transparent)]
    Map(#[from] IdMapError),
    /// The child says why.
    #[error("{0}")]
    Child(String),
}

fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> OpenerError {
    move |source| OpenerError::Step { step, source: source.into() }
}

/// Clones the sources as the plan's shares say.
pub(super) fn share(
    sources: &Sources,
    plans: &[SharePlan],
    maps: &UserMaps,
) -> Result<Vec<OpenShare>, OpenerError> {
    let (mut near, far) = UnixStream::pair().map_err(step("make a socket"))?;
    let paths = paths(sources, plans).map_err(step("find the sources"))?;
    match sys::fork().map_err(step("fork"))? {
        ForkSide::Child => {
            drop(near);
            let code = u8::from(serve(&far, sources, plans, &paths).is_err());
            sys::exit_now(code)
        }
        ForkSide::Parent(pid) => {
            drop(far);
            let trees = receive_all(&mut near, pid, plans, maps);
            drop(near);
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
            trees
        }
    }
}

/// Where each source is, links followed.
fn paths(sources: &Sources, plans: &[SharePlan]) -> io::Result<Vec<PathBuf>> {
    let own = |file: &File| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    sources.files().take(plans.len()).map(own).collect()
}

fn receive_all(
    socket: &mut UnixStream,
    pid: i32,
    plans: &[SharePlan],
    maps: &UserMaps,
) -> Result<Vec<OpenShare>, OpenerError> {
    receive(socket)?;
    id_maps::write(pid, &maps.users, &maps.groups, User::current())?;
    socket.write_all(&[0]).map_err(step("let the opener go on"))?;
    let tree = |plan: &SharePlan| {
        let missing = || OpenerError::Child("the opener sent no tree".to_owned());
        Ok(OpenShare { tree: receive(socket)?.ok_or_else(missing)?, kind: plan.kind })
    };
    plans.iter().map(tree).collect()
}

/// One answer: a zero, with a descriptor or without; or the words for what went wrong.
fn receive(socket: &UnixStream) -> Result<Option<OwnedFd>, OpenerError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut kind = [0; 1];
    let mut parts = [io::IoSliceMut::new(&mut kind)];
    let received = rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(step("hear the opener"))?
        .bytes;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    if received == 1 && kind == [0] {
        return Ok(descriptor);
    }
    let mut words = String::new();
    let limit = u64::try_from(MAX_MESSAGE).unwrap_or(u64::MAX);
    let _ = socket.take(limit).read_to_string(&mut words);
    let killed = "the process that opens the shares was killed";
    Err(OpenerError::Child(if words.is_empty() { killed.to_owned() } else { words }))
}

/// The child's whole life.
fn serve(
    mut socket: &UnixStream,
    sources: &Sources,
    plans: &[SharePlan],
    paths: &[PathBuf],
) -> io::Result<()> {
    let told = match enter(socket).map_err(|error| with_causes(&error)) {
        Ok(()) => share_all(socket, sources, plans, paths).map_err(|error| with_causes(&error)),
        Err(words) => Err(words),
    };
    match told {
        Ok(()) => Ok(()),
        Err(words) => {
            socket.write_all(&[1])?;
            let length = words.len().min(MAX_MESSAGE);
            socket.write_all(words.as_bytes().get(..length).unwrap_or_default())
        }
    }
}

fn enter(mut socket: &UnixStream) -> Result<(), OpenerError> {
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(step(
        "make a user namespace (sysctl user.max_user_namespaces, \
         kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)",
    ))?;
    socket.write_all(&[0]).map_err(step("say that the namespace is there"))?;
    socket.read_exact(&mut [0]).map_err(step("wait for the maps"))?;
    let (gid, uid) = (nix::unistd::Gid::from_raw(0), nix::unistd::Uid::from_raw(0));
    nix::unistd::setresgid(gid, gid, gid).map_err(step("become root in the user namespace"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(step("become root in the user namespace"))
}

fn share_all(
    socket: &UnixStream,
    sources: &Sources,
    plans: &[SharePlan],
    paths: &[PathBuf],
) -> Result<(), ShareError> {
    for ((plan, file), path) in plans.iter().zip(sources.files()).zip(paths) {
        let failed = |source| ShareError::Clone { path: plan.source.clone(), source };
        let again = open_same(file, path).map_err(failed)?;
        let shared = super::shares::share(plan, &again)?;
        send(socket, &shared.tree).map_err(failed)?;
    }
    Ok(())
}

/// The source in this mount namespace, if it is still what was looked at.
fn open_same(file: &File, path: &PathBuf) -> io::Result<File> {
    let again = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let (before, now) = (rustix::fs::fstat(file)?, rustix::fs::fstat(&again)?);
    if (before.st_dev, before.st_ino) == (now.st_dev, now.st_ino) {
        return Ok(again.into());
    }
    Err(io::Error::other("it was replaced meanwhile"))
}

fn send(socket: &UnixStream, tree: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [tree.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(socket, &[io::IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
