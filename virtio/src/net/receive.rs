//! From the tap to the guest.
//!
//! The guest's buffers are gathered ahead, so that one call puts a frame into as many of them as it
//! needs. What is not needed waits for the next frame.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use super::features;
use super::header::{BUFFERS_OFFSET, HEADER_BYTES, MAX_FRAME_BYTES};
use super::pace::{MUCH_BYTES, Pace};
use super::sys::{MAX_PIECES, Pieces};
use super::{MAX_FRAMES_IN_ONE_GO, TapQueue};
use crate::chain::Chain;
use crate::device::Activation;
use crate::memory::GuestRam;
use crate::queue::{BrokenQueue, DeviceQueue};

/// An Ethernet header with two VLAN tags.
const LINK_BYTES: usize = 14 + 8;
/// Buffers taken for one frame. A guest could otherwise give useless ones for ever, and nobody else
/// would get a turn.
const MAX_TAKEN: usize = 2 * super::QUEUE_SIZE as usize;

/// A buffer of the guest's.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    head: u16,
    bytes: usize,
}

/// The receive queue's side.
#[derive(Debug)]
pub(super) struct Receiver {
    mergeable: bool,
    /// The longest frame that may come, with its header.
    longest: usize,
    buffers: VecDeque<Buffer>,
    /// What they hold.
    pieces: Pieces,
    /// What a frame used.
    used: Vec<(u16, u32)>,
}

/// How the driver wants to hear of what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Not at all.
    Nothing,
    /// Of a short frame that came alone, a request or its answer: somebody waits for it.
    AtOnce,
    /// Of several, or of much: there will be more, which it should find together.
    Interrupt,
}

/// How an attempt to receive ended.
enum Received {
    /// A frame of so many bytes, header included, lies in the first buffers.
    Frame(usize),
    /// There is none, or it was lost.
    Nothing,
}

impl Receiver {
    pub(super) fn new(activation: &Activation, mtu: u16) -> Self {
        let uncut = features::takes_uncut(activation.features);
        let frame = if uncut { MAX_FRAME_BYTES } else { usize::from(mtu) + LINK_BYTES };
        Self {
            mergeable: activation.features & features::MERGEABLE != 0,
            longest: HEADER_BYTES + frame,
            buffers: VecDeque::with_capacity(usize::from(super::QUEUE_SIZE)),
            pieces: Pieces::new(Arc::clone(&activation.memory)),
            used: Vec::with_capacity(usize::from(super::QUEUE_SIZE)),
        }
    }

    /// Gives the guest what a queue of the tap's has; how the driver wants to hear of it.
    pub(super) fn serve(
        &mut self,
        queue: &mut DeviceQueue,
        memory: &GuestRam,
        tap: &mut TapQueue,
    ) -> Result<Wanted, BrokenQueue> {
        let (mut served, mut moved, mut pace) = (0, 0, Pace::default());
        while tap.readable && served < MAX_FRAMES_IN_ONE_GO {
            if !self.gather(queue, memory)? {
                break;
            }
            if let Received::Frame(bytes) = self.receive(tap) {
                self.hand_over(queue, memory, bytes)?;
                pace.moved(bytes);
                moved += bytes;
                served += 1;
            }
            tap.readable = tap.readable || pace.look_again();
        }
        if tap.readable && served == MAX_FRAMES_IN_ONE_GO {
            queue.call_again();
        }
        if served == 0 || !queue.wants_interrupt(memory)? {
            return Ok(Wanted::Nothing);
        }
        let alone = served == 1 && moved < MUCH_BYTES;
        Ok(if alone { Wanted::AtOnce } else { Wanted::Interrupt })
    }

    /// Takes buffers until the longest frame fits; false when the guest has not so many. It then
    /// tells when it has more.
    fn gather(&mut self, queue: &mut DeviceQueue, memory: &GuestRam) -> Result<bool, BrokenQueue> {
        for _ in 0..MAX_TAKEN {
            if self.is_ready() {
                return Ok(true);
            }
            if let Some(chain) = queue.pop(memory)? {
                let head = chain.head_index();
                if !self.take(chain) {
                    queue.push(memory, head, 0)?;
                }
            } else if !queue.rearm(memory)? {
                return Ok(false);
            }
        }
        queue.call_again();
        Ok(false)
    }

    fn is_ready(&self) -> bool {
        let room = self.pieces.bytes();
        let enough = if self.mergeable { room >= self.longest } else { room > 0 };
        // More pieces cannot be had in one call, so what is there must do.
        enough || self.pieces.count() + 1 >= MAX_PIECES
    }

    /// Where frames cannot lie in several buffers, one must hold the longest.
    fn is_of_use(&self, buffer: &Buffer) -> bool {
        let needed = if self.mergeable { HEADER_BYTES } else { self.longest };
        buffer.bytes >= needed
    }

    /// Takes a buffer, unless it is of no use.
    fn take(&mut self, chain: Chain<'_>) -> bool {
        let before = self.pieces.bytes();
        match self.parse(chain).filter(|buffer| self.is_of_use(buffer)) {
            Some(buffer) => {
                self.buffers.push_back(buffer);
                true
            }
            None => {
                self.pieces.truncate(before);
                false
            }
        }
    }

    /// Adds a buffer's pieces; `None` for one that is not in memory, or in too many of them.
    fn parse(&mut self, chain: Chain<'_>) -> Option<Buffer> {
        let mut buffer = Buffer { head: chain.head_index(), bytes: 0 };
        for descriptor in chain.writable() {
            let length = usize::try_from(descriptor.len()).ok()?;
            self.pieces.push(descriptor.addr(), length)?;
            buffer.bytes += length;
        }
        Some(buffer)
    }

    fn receive(&mut self, tap: &mut TapQueue) -> Received {
        match self.pieces.read_from(tap.descriptor.as_fd(), self.room_for_one()) {
            Ok(bytes) if bytes >= HEADER_BYTES => Received::Frame(bytes),
            Ok(_) => Received::Nothing,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Received::Nothing,
            // Nothing there; or a tap that is down, which says when it is up again.
            Err(_) => {
                tap.readable = false;
                Received::Nothing
            }
        }
    }

    /// How much of what there is a frame may take.
    fn room_for_one(&self) -> usize {
        if self.mergeable {
            return self.longest;
        }
        self.buffers.front().map_or(0, |buffer| buffer.bytes)
    }

    /// Gives the guest the buffers that a frame lies in.
    fn hand_over(
        &mut self,
        queue: &mut DeviceQueue,
        memory: &GuestRam,
        bytes: usize,
    ) -> Result<(), BrokenQueue> {
        self.used.clear();
        let (mut left, mut room) = (bytes, 0);
        while left > 0 {
            let Some(buffer) = self.buffers.pop_front() else { break };
            let written = left.min(buffer.bytes);
            // At most MAX_FRAME_BYTES and the header.
            self.used.push((buffer.head, written as u32));
            room += buffer.bytes;
            left -= written;
        }
        for (place, byte) in (BUFFERS_OFFSET..).zip((self.used.len() as u16).to_le_bytes()) {
            self.pieces.store(place, byte);
        }
        self.pieces.remove_first(room);
        queue.push_together(memory, &self.used)
    }
}
