//! This program in a form that a container cannot write to.
//!
//! Whatever enters a container is, until it executes something else, a process of the container
//! whose `/proc/<pid>/exe` leads to the host's `cofferdam`: a container that gets hold of it can
//! overwrite the runtime (CVE-2019-5736). What enters is therefore executed from a copy of the
//! mount that the program is on: detached from every mount namespace, and read-only, so that a
//! write through any link to it fails. Where mounts cannot be made (no privilege, an old kernel) a
//! sealed copy in memory does the same, at the price of copying.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mount::OpenTreeFlags;

use super::sys::{self, MountAttributes};

/// Opens the program for execution.
///
/// # Errors
/// When neither a mount nor a copy can be made.
pub(super) fn open() -> io::Result<OwnedFd> {
    detached_mount().or_else(|_| sealed_copy())
}

fn detached_mount() -> io::Result<OwnedFd> {
    let tree = rustix::mount::open_tree(
        rustix::fs::CWD,
        "/proc/self/exe",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
    sys::mount_setattr(tree.as_fd(), false, read_only)?;
    Ok(tree)
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let copy =
        rustix::fs::memfd_create("cofferdam", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(copy);
    io::copy(&mut File::open("/proc/self/exe")?, &mut file)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_sealed_copy_cannot_be_written() {
        let copy = sealed_copy().unwrap();
        assert!(File::from(copy).write_all(b"x").is_err());
    }

    #[test]
    fn neither_form_can_be_opened_for_writing() {
        let program = open().unwrap();
        let path = format!("/proc/self/fd/{}", program.as_raw_fd());
        let refused = File::options().write(true).open(path).and_then(|mut f| f.write_all(b"x"));
        assert!(refused.is_err());
    }
}
