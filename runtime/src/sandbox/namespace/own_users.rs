//! The way of a helper into the user namespace of a container whose caller is an ordinary user.
//!
//! Such a caller may do nothing that `libcontainer` does; inside of a user namespace of its own it
//! may. So the helper enters the container's before it begins, and `libcontainer` finds itself in
//! the hands of a root who needs no user namespace any more.
//!
//! ```text
//!   helper ── sleeper in a new user namespace ── maps written (by hand, or newuidmap) ──┐
//!     └── enters that namespace, as its root ◀──────────────────────────────────────────┘
//!     └── a mount namespace in which /sys/fs/cgroup is version 2, where the host has both
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use cofferdam_protocol::plan::IdMappingPlan;
use serde::{Deserialize, Serialize};

use super::cgroup;
use super::sys;
use crate::host::id_maps::{self, IdMapError};
use crate::host::user::User;

/// Where `libcontainer` looks for control groups.
pub(super) const CGROUPS: &str = "/sys/fs/cgroup";

/// The user namespace to enter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum OwnUsers {
    /// A new one.
    New { users: Vec<IdMappingPlan>, groups: Vec<IdMappingPlan> },
    /// Somebody's.
    Existing(PathBuf),
}

/// Why the helper is where it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnterError {
    #[error("Cannot {step}")]
    Step { step: &'static str, source: io::Error },
    #[error(transparent)]
    Map(#[from] IdMapError),
    #[error(
        "Cannot show cgroup v2 to libcontainer: it is mounted nowhere on this host \
         (mount -t cgroup2 none /sys/fs/cgroup/unified)"
    )]
    NoVersion2,
}

fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> EnterError {
    move |source| EnterError::Step { step, source: source.into() }
}

/// Enters it and is its root. To be called by a process with one thread, which can still be traced.
pub(super) fn enter(wanted: &OwnUsers) -> Result<(), EnterError> {
    let namespace = match wanted {
        OwnUsers::New { users, groups } => make(users, groups)?,
        OwnUsers::Existing(path) => {
            OwnedFd::from(File::open(path).map_err(step("open the user namespace"))?)
        }
    };
    sys::enter_namespace(namespace.as_fd(), libc::CLONE_NEWUSER)
        .map_err(step("enter the user namespace"))?;
    let (gid, uid) = (nix::unistd::Gid::from_raw(0), nix::unistd::Uid::from_raw(0));
    let become_root = "become root in the user namespace: linux.gidMappings and linux.uidMappings \
                       must map 0";
    nix::unistd::setresgid(gid, gid, gid).map_err(step(become_root))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(step(become_root))
}

/// A new user namespace, held by the descriptor alone.
fn make(users: &[IdMappingPlan], groups: &[IdMappingPlan]) -> Result<OwnedFd, EnterError> {
    let sleeper = sys::fork_into_user_namespace().map_err(step(
        "make a user namespace (sysctl user.max_user_namespaces, \
         kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)",
    ))?;
    let made = id_maps::write(sleeper.as_raw(), users, groups, User::current())
        .map_err(EnterError::Map)
        .and_then(|()| {
            File::open(format!("/proc/{sleeper}/ns/user")).map_err(step("open the user namespace"))
        });
    let _ = sys::kill(sleeper.as_raw(), libc::SIGKILL);
    let _ = nix::sys::wait::waitpid(sleeper, None);
    Ok(made?.into())
}

/// Makes what `libcontainer` sees of the control groups version 2, in a mount namespace of this
/// process's own: it lets a caller be who may not change that one, and not v1. Whether anything was
/// covered.
pub(super) fn cover_version_1() -> Result<bool, EnterError> {
    if cgroup::is_unified() {
        return Ok(false);
    }
    let version_2 = cgroup::mount_of_version_2()
        .map_err(step("read the mounts"))?
        .ok_or(EnterError::NoVersion2)?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(step("make a mount namespace"))?;
    let none: Option<&str> = None;
    nix::mount::mount(Some(&version_2), CGROUPS, none, nix::mount::MsFlags::MS_BIND, none)
        .map_err(step("show cgroup v2 alone"))?;
    Ok(true)
}

/// Takes the cover away, where the container would see it.
pub(super) fn uncover() -> io::Result<()> {
    Ok(nix::mount::umount2(Path::new(CGROUPS), nix::mount::MntFlags::MNT_DETACH)?)
}
