//! A process beside the making of a container that stays where the runtime is: it opens what the
//! stage may not open from inside the container's user namespace, and runs the hooks that belong to
//! the runtime's namespaces.
//!
//! ```text
//!   stage ── open mount N ──▶ attendant: enters the stage's mount namespace, opens, maps owners,
//!         ◀── the tree ─────             goes back
//!         ── run the hooks ─▶            prestart, createRuntime
//!         ◀── done, or why not ──
//! ```
//!
//! Hostile: nothing yet. The stage runs before anything of the container's does.

use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};

use super::hook;
use super::report::describe;
use super::stage::StageJob;
use super::staged_mount::Owners;
use super::sys::{self, Fork};

/// Longer than any answer: a message that says why something failed is cut.
const MAX_ANSWER: usize = 8192;

/// What the stage asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// The tree of the mount in this place of the job.
    Open(u8, u8),
    /// The hooks of the runtime's namespaces.
    RunHooks,
}

impl Request {
    fn bytes(self) -> [u8; 3] {
        match self {
            Self::Open(high, low) => [b'o', high, low],
            Self::RunHooks => [b'h', 0, 0],
        }
    }
}

/// The attendant, from the side of the process that made it.
pub(super) struct Attendant {
    pid: i32,
}

impl Attendant {
    /// Makes one, and the stage's side of the connection to it. To be called by a process with one
    /// thread.
    pub(super) fn start(job: &StageJob) -> io::Result<(Self, OwnedFd)> {
        let (socket, of_stage) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_passcred(&socket, true)?;
        match sys::fork_child()? {
            Fork::Caller(pid) => Ok((Self { pid }, of_stage)),
            Fork::Child => {
                drop(of_stage);
                // Nothing of a container's may look into it.
                let _ = sys::set_dumpable(false);
                let code = i32::from(serve(job, &socket).is_err());
                sys::exit_now(code)
            }
        }
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        // With the last copy of the stage's side it has ended; if not, a failure is in progress.
        let _ = sys::kill(self.pid, libc::SIGKILL);
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(self.pid), None);
    }
}

/// Asks, from the stage; the descriptor that came with the answer.
pub(super) fn ask(socket: BorrowedFd<'_>, request: Request) -> io::Result<Option<OwnedFd>> {
    rustix::net::send(socket, &request.bytes(), SendFlags::NOSIGNAL)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut answer = vec![0; MAX_ANSWER];
    let mut parts = [io::IoSliceMut::new(&mut answer)];
    let received =
        rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match answer.get(..received) {
        Some([0]) => Ok(descriptor),
        Some([1, message @ ..]) => Err(io::Error::other(String::from_utf8_lossy(message))),
        Some(_) | None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn serve(job: &StageJob, socket: &OwnedFd) -> io::Result<()> {
    let own = File::open("/proc/self/ns/mnt")?;
    while let Some((request, stage)) = receive(socket)? {
        let answer = match request {
            [b'o', high, low] => {
                open(job, usize::from(u16::from_be_bytes([high, low])), stage, &own).map(Some)
            }
            [b'h', ..] => run_hooks(job, stage).map(|()| None),
            _ => Err("no such request".to_owned()),
        };
        match answer {
            Ok(tree) => answer_with(socket, &[0], tree.as_ref())?,
            Err(message) => {
                let mut bytes = vec![1];
                bytes.extend(message.bytes().take(MAX_ANSWER - 1));
                answer_with(socket, &bytes, None)?;
            }
        }
    }
    Ok(())
}

/// The next request and who sent it, as the kernel says.
fn receive(socket: &OwnedFd) -> io::Result<Option<([u8; 3], i32)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 3];
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let received =
        rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid.as_raw_nonzero().get()),
        _ => None,
    });
    Ok(sender.filter(|_| received == bytes.len()).map(|sender| (bytes, sender)))
}

fn answer_with(socket: &OwnedFd, bytes: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.iter().map(|fd| fd.as_fd()).collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    rustix::net::sendmsg(socket, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn open(job: &StageJob, place: usize, stage: i32, own: &File) -> Result<OwnedFd, String> {
    let bind = job.mounts.get(place).and_then(|mount| mount.bind()).ok_or("no such mount")?;
    let words = |e: io::Error| describe(&e);
    let theirs = File::open(format!("/proc/{stage}/ns/mnt")).map_err(words)?;
    let namespace = bind.owners.as_ref().map(|owners| owners_namespace(owners, stage));
    let namespace = namespace.transpose().map_err(words)?;
    sys::enter_namespace(theirs.as_fd(), libc::CLONE_NEWNS).map_err(words)?;
    let tree = bind.open();
    sys::enter_namespace(own.as_fd(), libc::CLONE_NEWNS).map_err(words)?;
    let tree = tree.map_err(words)?;
    if let (Some(owners), Some(namespace)) = (&bind.owners, &namespace) {
        owners
            .apply(tree.as_fd(), namespace.as_fd())
            .map_err(|e| format!("map the owners: {}", describe(&e)))?;
    }
    Ok(tree)
}

/// A user namespace with these mappings; the container's own where there are none.
fn owners_namespace(owners: &Owners, stage: i32) -> io::Result<OwnedFd> {
    if owners.users.is_empty() && owners.groups.is_empty() {
        return Ok(File::open(format!("/proc/{stage}/ns/user"))?.into());
    }
    let holder = sys::fork_into_user_namespace()?;
    let folder = format!("/proc/{}", holder.as_raw());
    let opened = fs::write(format!("{folder}/uid_map"), &owners.users)
        .and_then(|()| fs::write(format!("{folder}/gid_map"), &owners.groups))
        .and_then(|()| File::open(format!("{folder}/ns/user")));
    let _ = sys::kill(holder.as_raw(), libc::SIGKILL);
    let _ = nix::sys::wait::waitpid(holder, None);
    Ok(opened?.into())
}

fn run_hooks(job: &StageJob, stage: i32) -> Result<(), String> {
    let mut state = job.state.clone();
    state.pid = parent_of(stage).ok_or("the container's process is gone")?;
    let creating = std::mem::replace(&mut state.status, "created".to_owned());
    // The old moment is of the time when everything is made; the new one of making it.
    hook::run_all("prestart", &job.prestart, &state, None).map_err(|e| describe(&e))?;
    state.status = creating;
    hook::run_all("createRuntime", &job.create_runtime, &state, None).map_err(|e| describe(&e))?;
    Ok(())
}

/// The stage is a child of the container's first process.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}
