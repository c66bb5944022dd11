//! The monitor's own descriptors, taken over from numbers.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// Takes over an inherited descriptor, and keeps it from programs (there are none). `None` when
/// it is not open.
///
/// The caller asks for each number at most once.
pub(crate) fn take_descriptor(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: changing the flags of a descriptor touches no memory, and fails if it is not open.
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if result != 0 {
        return None;
    }
    // SAFETY: the descriptor is open. It was inherited, so nothing in this process owns it yet;
    // the caller takes each number once, before anything else is opened.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor from `first` to `last`, inclusive.
pub(crate) fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the caller names only descriptors that nothing in this process owns.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
