//! The unsafe lines of the file server: C structures that have no constructor, and a working
//! directory of the thread's own.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// A `stat` with every field zero.
pub(super) fn blank_stat() -> libc::stat64 {
    // SAFETY: the structure has integers and arrays of them only; zero is a value of each.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// A `statvfs` with every field zero.
pub(super) fn blank_statvfs() -> libc::statvfs64 {
    // SAFETY: the structure has integers and arrays of them only; zero is a value of each.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Gives the calling thread a working directory and a file mode mask of its own.
pub(super) fn unshare_working_directory() -> io::Result<()> {
    // SAFETY: of what can be unshared, only descriptors endanger memory safety: this is not they.
    Ok(unsafe { unshare_unsafe(UnshareFlags::FS) }?)
}

/// Gives the calling thread a mount namespace of its own.
#[cfg(test)]
pub(super) fn own_mount_namespace() -> io::Result<()> {
    // SAFETY: of what can be unshared, only descriptors endanger memory safety: this is not they.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?)
}
