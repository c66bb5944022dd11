//! `unshare`, which the compiler cannot check for what it does to descriptors.

#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives the calling thread a mount namespace and a root of its own.
pub(super) fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: the descriptor table stays shared (no CLONE_FILES), so that every owned descriptor
    // means the same in all threads; a mount namespace is no matter of memory.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
}
