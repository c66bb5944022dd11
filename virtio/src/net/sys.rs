//! Whole frames between a tap and pieces of guest memory, in one system call each; and what a tap
//! is told about its guest.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use libc::iovec;

use super::header::HEADER_BYTES;
use crate::memory::{GuestAddress, GuestMemory, GuestRam};

/// As many pieces as Linux takes in one call (`UIO_MAXIOV`).
pub(super) const MAX_PIECES: usize = 1024;

/// Pieces of guest memory, in order, with room for a header of ours in front.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Keeps what the pieces point into mapped. The guest may change it at any time: nothing but
    /// system calls reads or writes there.
    memory: Arc<GuestRam>,
    /// The first is for the header. The others lie in `memory`.
    list: Vec<iovec>,
}

// SAFETY: the pointers lie in memory that is shared with the guest anyway and that `memory` keeps
// mapped, whichever thread has this.
unsafe impl Send for Pieces {}

const NOTHING: iovec = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

impl Pieces {
    /// None yet.
    pub(super) fn new(memory: Arc<GuestRam>) -> Self {
        let mut list = Vec::with_capacity(MAX_PIECES);
        list.push(NOTHING);
        Self { memory, list }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.list.len() - 1
    }

    /// How long a piece is; nothing for one that there is not.
    pub(super) fn length(&self, index: usize) -> usize {
        self.list.get(index + 1).map_or(0, |piece| piece.iov_len)
    }

    /// Adds what lies at an address; how many pieces it is in, or `None` where it is not in memory
    /// or in too many.
    pub(super) fn push(&mut self, address: GuestAddress, length: usize) -> Option<usize> {
        let before = self.list.len();
        for slice in self.memory.get_slices(address, length) {
            let Ok(slice) = slice else {
                self.list.truncate(before);
                return None;
            };
            if self.list.len() == MAX_PIECES {
                self.list.truncate(before);
                return None;
            }
            let base = slice.ptr_guard_mut().as_ptr();
            self.list.push(iovec { iov_base: base.cast(), iov_len: slice.len() });
        }
        Some(self.list.len() - before)
    }

    /// Forgets the last pieces, so that `count` are left.
    pub(super) fn truncate(&mut self, count: usize) {
        self.list.truncate(count + 1);
    }

    /// Forgets the first pieces.
    pub(super) fn remove_first(&mut self, count: usize) {
        let end = (count + 1).min(self.list.len());
        self.list.drain(1..end);
    }

    /// Sends a header and what lies in the pieces as one frame.
    pub(super) fn write_to(
        &mut self,
        tap: BorrowedFd<'_>,
        header: &[u8; HEADER_BYTES],
    ) -> io::Result<usize> {
        // The kernel reads the header only.
        let base = header.as_ptr().cast_mut();
        self.list[0] = iovec { iov_base: base.cast(), iov_len: header.len() };
        let count = self.list.len() as i32;
        // SAFETY: `list` has `count` pieces (at most MAX_PIECES): the header, which lives until
        // the call returns, and guest memory, which `memory` keeps mapped.
        let written = unsafe { libc::writev(tap.as_raw_fd(), self.list.as_ptr(), count) };
        self.list[0] = NOTHING;
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    /// Receives one frame with its header into the first `count` pieces.
    pub(super) fn read_from(&self, tap: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        let pieces = &self.list[1..=count.min(self.count())];
        // SAFETY: the pieces lie in guest memory, which `memory` keeps mapped and which nobody
        // holds a reference into.
        let read = unsafe { libc::readv(tap.as_raw_fd(), pieces.as_ptr(), pieces.len() as i32) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }
}

/// What a guest takes unfinished (`TUN_F_*`): the kernel finishes the rest for it.
pub(super) fn set_offload(tap: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0_u32 as libc::Ioctl;
    // SAFETY: TUNSETOFFLOAD takes its flags by value.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
