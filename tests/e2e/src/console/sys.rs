//! The two system calls that take a raw descriptor or pointer.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

nix::ioctl_write_ptr_bad!(tiocswinsz, nix::libc::TIOCSWINSZ, nix::libc::winsize);

/// Takes a descriptor that a message brought.
pub(super) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: `recvmsg` has just made this descriptor for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Sets a terminal's size.
pub(super) fn set_window_size(master: &File, ws_row: u16, ws_col: u16) {
    let size = nix::libc::winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open and `size` is a whole `struct winsize`.
    unsafe { tiocswinsz(master.as_raw_fd(), &raw const size) }.unwrap();
}
