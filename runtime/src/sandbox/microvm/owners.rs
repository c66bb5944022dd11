//! Id-mapped mounts: the host maps the owners of a share's files, so that the guest sees them as the
//! container's user namespace, or the mount itself, says.
//!
//! The kernel takes a mapping in the shape of a user namespace. A process is made in a new one, its
//! maps are written, the namespace is opened, and the process ends without having done anything.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::host::id_maps::lines;
use crate::host::sys::{self, GatedChild, Program};
use crate::plan::OwnersPlan;

/// Maps the owners on a detached mount.
pub(super) fn map(tree: BorrowedFd<'_>, owners: &OwnersPlan) -> io::Result<()> {
    let users = user_namespace(owners)?;
    sys::map_mount_owners(tree, owners.recursive, users.as_fd())
}

fn user_namespace(owners: &OwnersPlan) -> io::Result<OwnedFd> {
    let (gate, far) = UnixStream::pair()?;
    let null = File::open("/dev/null")?;
    // Never executed: the gate stays shut.
    let path = CString::default();
    let program = Program {
        path: &path,
        arguments: &[],
        kept: &[],
        standard: null.as_fd(),
        cpus: &[],
        cgroup: None,
        memory: None,
        own_network: true,
    };
    let child = sys::spawn_gated(&program, gate.as_fd(), far.as_fd())?;
    drop(gate);
    let opened = open_mapped(&child, owners);
    // It reads the end of the stream, and ends.
    drop(far);
    waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)?;
    opened
}

fn open_mapped(child: &GatedChild, owners: &OwnersPlan) -> io::Result<OwnedFd> {
    let folder = format!("/proc/{}", child.pid);
    fs::write(format!("{folder}/uid_map"), lines(&owners.uids))?;
    fs::write(format!("{folder}/gid_map"), lines(&owners.gids))?;
    Ok(File::open(format!("{folder}/ns/user"))?.into())
}
