//! What a program that is about to be run needs done between its two system calls.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

/// The first of the descriptors that a program is given beside its standard streams.
pub(crate) const FIRST: i32 = 3;

/// Has a program inherit these as descriptors 3, 4 and so on. Each has a larger number than any of
/// those, so that none takes another's place.
pub(crate) fn inherit(command: &mut Command, descriptors: Vec<OwnedFd>) {
    let give = move || {
        for (target, descriptor) in (FIRST..).zip(&descriptors) {
            // SAFETY: `dup2` takes two numbers and touches no memory.
            if unsafe { libc::dup2(descriptor.as_raw_fd(), target) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: what runs between fork and exec calls nothing but `dup2`, which is async-signal-safe,
    // and neither allocates nor takes a lock.
    unsafe { command.pre_exec(give) };
}
