//! Content between a disk and pieces of guest memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use libc::iovec;

use crate::memory::{GuestAddress, GuestRam, each_slice};

/// More than a request has of segments, each of which may lie in two pieces; as many as Linux takes in one call
/// (`UIO_MAXIOV`).
const MAX_PIECES: usize = 1024;

/// Pieces of guest memory, in order.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Keeps what the pieces point into mapped. The guest may change it at any time: nothing but
    /// system calls reads or writes there.
    memory: Arc<GuestRam>,
    /// All lie in `memory`.
    list: Vec<iovec>,
    /// Where the first lies, and how long it is.
    first: Option<(GuestAddress, usize)>,
}

// SAFETY: the pointers lie in memory that is shared with the guest anyway and that `memory` keeps
// mapped, whichever thread has this.
unsafe impl Send for Pieces {}

impl Pieces {
    /// None yet.
    pub(super) const fn new(memory: Arc<GuestRam>) -> Self {
        Self { memory, list: Vec::new(), first: None }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.first = None;
    }

    /// Where the first lies, and how long it is.
    pub(super) const fn first(&self) -> Option<(GuestAddress, usize)> {
        self.first
    }

    /// Adds what lies at an address; `None` where it is not in memory or there are too many.
    pub(super) fn push(&mut self, address: GuestAddress, length: usize) -> Option<()> {
        let list = &mut self.list;
        each_slice(&self.memory, address, length, |slice| {
            let base = slice.ptr_guard_mut().as_ptr();
            list.push(iovec { iov_base: base.cast(), iov_len: slice.len() });
            (list.len() <= MAX_PIECES).then_some(())
        })?;
        self.first = self.first.or(Some((address, length)));
        Some(())
    }

    /// Fills all pieces from a place on the disk on.
    pub(super) fn read_from(&mut self, disk: &File, offset: u64) -> io::Result<()> {
        self.move_all(offset, |pieces, at| {
            // SAFETY: the pieces (at most MAX_PIECES) lie in guest memory, which `memory` keeps mapped and
            // which nobody holds a reference into.
            unsafe { libc::preadv(disk.as_raw_fd(), pieces.as_ptr(), pieces.len() as i32, at) }
        })
    }

    /// Writes all pieces to a place on the disk.
    pub(super) fn write_to(&mut self, disk: &File, offset: u64) -> io::Result<()> {
        self.move_all(offset, |pieces, at| {
            // SAFETY: the pieces (at most MAX_PIECES) lie in guest memory, which `memory` keeps mapped.
            unsafe { libc::pwritev(disk.as_raw_fd(), pieces.as_ptr(), pieces.len() as i32, at) }
        })
    }

    /// Until all is done: the kernel may do a part.
    fn move_all(
        &mut self,
        mut offset: u64,
        mut call: impl FnMut(&[iovec], i64) -> isize,
    ) -> io::Result<()> {
        let mut rest = self.list.as_mut_slice();
        while !rest.is_empty() {
            let at = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            match usize::try_from(call(rest, at)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(done) => {
                    offset += done as u64;
                    rest = advance(rest, done);
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}

/// What is left when so many bytes are done.
fn advance(pieces: &mut [iovec], mut done: usize) -> &mut [iovec] {
    let whole = pieces.iter().take_while(|piece| {
        let is_done = piece.iov_len <= done;
        done -= if is_done { piece.iov_len } else { 0 };
        is_done
    });
    let count = whole.count();
    let (_, rest) = pieces.split_at_mut(count);
    if let Some(first) = rest.first_mut() {
        // Within the piece: it is longer than that.
        first.iov_base = first.iov_base.wrapping_byte_add(done);
        first.iov_len -= done;
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_begins_where_the_kernel_ended() {
        let piece = |at: usize, iov_len| iovec { iov_base: at as *mut _, iov_len };
        let left = |done| {
            let mut pieces = [piece(100, 10), piece(200, 20)];
            let rest = advance(&mut pieces, done);
            rest.iter().map(|piece| (piece.iov_base as usize, piece.iov_len)).collect::<Vec<_>>()
        };
        assert_eq!(left(0), [(100, 10), (200, 20)]);
        assert_eq!(left(4), [(104, 6), (200, 20)]);
        assert_eq!(left(10), [(200, 20)]);
        assert_eq!(left(29), [(219, 1)]);
        assert_eq!(left(30), []);
    }
}
