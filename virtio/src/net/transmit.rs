//! From the guest to the tap.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::MAX_FRAMES_IN_ONE_GO;
use super::header::{self, HEADER_BYTES};
use super::pace::Pace;
use super::sys::Pieces;
use crate::chain::Chain;
use crate::device::Activation;
use crate::memory::{Address as _, GuestRam, read_at};
use crate::queue::{BrokenQueue, DeviceQueue};

/// The transmit queue's side.
#[derive(Debug)]
pub(super) struct Transmitter {
    accepted: u64,
    pieces: Pieces,
}

impl Transmitter {
    pub(super) fn new(activation: &Activation) -> Self {
        let pieces = Pieces::new(Arc::clone(&activation.memory));
        Self { accepted: activation.features, pieces }
    }

    /// Sends what is in the queue; true when the driver wants to hear of it.
    pub(super) fn serve(
        &mut self,
        queue: &mut DeviceQueue,
        memory: &GuestRam,
        tap: BorrowedFd<'_>,
    ) -> Result<bool, BrokenQueue> {
        let (mut served, mut pace) = (0, Pace::default());
        while served < MAX_FRAMES_IN_ONE_GO {
            if let Some(chain) = queue.pop(memory)? {
                let head = chain.head_index();
                let bytes = self.send(chain, memory, tap);
                queue.count_read(bytes);
                pace.moved(bytes);
                queue.push(memory, head, 0)?;
                served += 1;
            } else if !pace.look_again() && !queue.rearm(memory)? {
                break;
            }
        }
        if served == MAX_FRAMES_IN_ONE_GO {
            queue.call_again();
        }
        Ok(served > 0 && queue.wants_interrupt(memory)?)
    }

    /// A frame that is not right, or that the tap does not take, is lost. How long it was.
    fn send(&mut self, chain: Chain<'_>, memory: &GuestRam, tap: BorrowedFd<'_>) -> usize {
        let frame = self
            .gather(chain, memory)
            .and_then(|(header, length)| header::checked(header, length, self.accepted));
        let sent = frame.and_then(|header| self.pieces.write_to(tap, &header).ok());
        self.pieces.truncate(0);
        sent.unwrap_or(0)
    }

    /// The header, and how long the frame behind it is, which is in the pieces then.
    fn gather(
        &mut self,
        chain: Chain<'_>,
        memory: &GuestRam,
    ) -> Option<([u8; HEADER_BYTES], usize)> {
        let mut header = [0; HEADER_BYTES];
        let (mut done, mut length) = (0, 0_usize);
        for descriptor in chain.readable() {
            let bytes = usize::try_from(descriptor.len()).ok()?;
            let of_header = bytes.min(HEADER_BYTES - done);
            read_at(memory, descriptor.addr(), header.get_mut(done..done + of_header)?)?;
            done += of_header;
            let rest = descriptor.addr().checked_add(of_header as u64)?;
            if bytes > of_header {
                self.pieces.push(rest, bytes - of_header)?;
                length += bytes - of_header;
            }
        }
        (done == HEADER_BYTES).then_some((header, length))
    }
}
