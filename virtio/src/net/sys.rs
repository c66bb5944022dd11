//! Whole frames between a tap and pieces of guest memory, in one system call each; and what a tap
//! is told about its guest.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use libc::iovec;

use super::header::HEADER_BYTES;
use crate::memory::{GuestAddress, GuestRam, each_slice};

/// As many pieces as Linux takes in one call (`UIO_MAXIOV`).
pub(super) const MAX_PIECES: usize = 1024;

/// Pieces of guest memory, in order, with room for a header of ours in front. Those that follow one
/// another in memory, as a driver's buffers mostly do, are one: the kernel looks at each of them in
/// each call.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Keeps what the pieces point into mapped. The guest may change it at any time: nothing but
    /// system calls reads or writes there.
    memory: Arc<GuestRam>,
    /// The first is for the header. The others lie in `memory`.
    list: Vec<iovec>,
    /// How long those in `memory` are together.
    bytes: usize,
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
        Self { memory, list, bytes: 0 }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.list.len() - 1
    }

    /// How long they are together.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds what lies at an address; `None` where it is not in memory or in too many pieces, and
    /// then a part of it may have been added.
    pub(super) fn push(&mut self, address: GuestAddress, length: usize) -> Option<()> {
        let Self { memory, list, bytes } = self;
        each_slice(memory, address, length, |slice| {
            append(list, slice.ptr_guard_mut().as_ptr(), slice.len())?;
            *bytes += slice.len();
            Some(())
        })
    }

    /// Forgets what lies behind the first `bytes`.
    pub(super) fn truncate(&mut self, bytes: usize) {
        while let Some(excess) = self.bytes.checked_sub(bytes).filter(|excess| *excess > 0) {
            let Some(last) = self.list.get_mut(1..).and_then(<[iovec]>::last_mut) else { break };
            let cut = last.iov_len.min(excess);
            last.iov_len -= cut;
            self.bytes -= cut;
            if last.iov_len == 0 {
                self.list.pop();
            }
        }
    }

    /// Forgets the first `bytes`.
    pub(super) fn remove_first(&mut self, bytes: usize) {
        let (mut left, mut whole) = (bytes.min(self.bytes), 0);
        self.bytes -= left;
        for piece in self.list.iter_mut().skip(1) {
            if piece.iov_len > left {
                piece.iov_base = piece.iov_base.cast::<u8>().wrapping_add(left).cast();
                piece.iov_len -= left;
                break;
            }
            left -= piece.iov_len;
            whole += 1;
        }
        self.list.drain(1..=whole);
    }

    /// Puts a byte behind the first `offset` of those in memory, if there are so many.
    pub(super) fn store(&mut self, offset: usize, byte: u8) {
        let mut before = 0;
        for piece in self.list.iter().skip(1) {
            let inside = offset - before;
            if inside < piece.iov_len {
                let place = piece.iov_base.cast::<u8>().wrapping_add(inside);
                // SAFETY: the place is in the piece, which lies in guest memory that `memory` keeps mapped and
                // nobody holds a reference into.
                unsafe { place.write_volatile(byte) };
                return;
            }
            before += piece.iov_len;
        }
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

    /// Receives one frame with its header into the first `room` bytes, or into all if there are
    /// fewer.
    pub(super) fn read_from(&mut self, tap: BorrowedFd<'_>, room: usize) -> io::Result<usize> {
        let (mut count, mut had) = (0, 0);
        while had < room && count < self.count() {
            count += 1;
            had += self.list[count].iov_len;
        }
        let beyond = had.saturating_sub(room);
        self.list[count].iov_len -= beyond;
        let pieces = &self.list[1..=count];
        // SAFETY: the pieces lie in guest memory, which `memory` keeps mapped and which nobody
        // holds a reference into.
        let read = unsafe { libc::readv(tap.as_raw_fd(), pieces.as_ptr(), pieces.len() as i32) };
        self.list[count].iov_len += beyond;
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }
}

/// Adds a piece behind the header and the other ones; `None` when there is no room for it.
fn append(list: &mut Vec<iovec>, base: *mut u8, length: usize) -> Option<()> {
    let full = list.len() == MAX_PIECES;
    match list.get_mut(1..).and_then(<[iovec]>::last_mut) {
        Some(last) if last.iov_base.cast::<u8>().wrapping_add(last.iov_len) == base => {
            last.iov_len += length;
        }
        _ if full => return None,
        _ => list.push(iovec { iov_base: base.cast(), iov_len: length }),
    }
    Some(())
}

/// What a guest takes unfinished (`TUN_F_*`): the kernel finishes the rest for it.
pub(super) fn set_offload(tap: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0_u32 as libc::Ioctl;
    // SAFETY: TUNSETOFFLOAD takes its flags by value.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::memory::Bytes as _;

    fn pieces(places: &[(u64, usize)]) -> Pieces {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let mut pieces = Pieces::new(Arc::new(memory));
        for (address, length) in places {
            pieces.push(GuestAddress(*address), *length).unwrap();
        }
        pieces
    }

    #[test]
    fn what_follows_in_memory_is_one_piece() {
        let mut pieces = pieces(&[(0x1000, 1536), (0x1600, 1536), (0x4000, 100)]);
        assert_eq!((pieces.count(), pieces.bytes()), (2, 3172));
        pieces.remove_first(1536);
        assert_eq!((pieces.count(), pieces.bytes()), (2, 1636));
        pieces.truncate(1000);
        assert_eq!((pieces.count(), pieces.bytes()), (1, 1000));
        pieces.remove_first(1000);
        assert_eq!((pieces.count(), pieces.bytes()), (0, 0));
    }

    #[test]
    fn a_frame_takes_no_more_room_than_it_may() {
        let (ours, tap) = UnixDatagram::pair().unwrap();
        let mut pieces = pieces(&[(0x1000, 10), (0x3000, 30)]);
        for (room, came) in [(5, 5), (20, 20), (10, 10), (100, 40)] {
            ours.send(&[7; 50]).unwrap();
            assert_eq!(pieces.read_from(tap.as_fd(), room).unwrap(), came);
            assert_eq!((pieces.count(), pieces.bytes()), (2, 40));
        }
    }

    #[test]
    fn a_byte_is_put_into_the_piece_that_it_lies_in() {
        let mut pieces = pieces(&[(0x1000, 10), (0x3000, 2)]);
        for (offset, byte) in [(9, 1), (10, 2), (11, 3), (12, 4)] {
            pieces.store(offset, byte);
        }
        let memory = Arc::clone(&pieces.memory);
        let byte = |address| memory.read_obj::<u8>(GuestAddress(address)).unwrap();
        assert_eq!([0x1009, 0x3000, 0x3001, 0x3002].map(byte), [1, 2, 3, 0]);
    }

    #[test]
    fn what_is_not_in_memory_is_no_piece() {
        let mut pieces = pieces(&[]);
        assert_eq!(pieces.push(GuestAddress((1 << 20) - 1), 2), None);
    }
}
