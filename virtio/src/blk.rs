//! The block device (virtio 1.2, section 5.2): a disk of the host's, as it is.
//!
//! ```text
//!  driver's queue ── request checked ──▶ preadv, pwritev, fdatasync, fallocate ──▶ disk
//! ```
//!
//! Content goes between guest memory and the host's cache of the disk without being copied here. What
//! is written is on the disk when the driver has had it flushed, as with a disk of its own; a driver
//! that cannot ask for that has it after each write (section 5.2.6.2).
//!
//! What this is not: a file format, or a disk that changes its size. A request is served to its end before
//! the next; the caller gives disks a thread of their own, since a disk may take its time.
//!
//! Hostile: the queue, every request and every length. Bounds: bytes and pieces of one request,
//! requests in one go, and where the disk ends.

mod request;
mod sys;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::chain::Chain;
use crate::device::{Activation, DeviceType, FEATURE_INDIRECT, VirtioDevice};
use crate::handover::{self, Giver, Order, Taker};
use crate::memory::{Bytes as _, GuestRam};
use crate::poll::{Interest, Poller, Token};
use crate::queue::{BrokenQueue, DeviceQueue};
use crate::sys as events;
use request::{Disk, MAX_SEGMENT_BYTES, MAX_SEGMENTS, Request};
use sys::Pieces;

/// Sectors of virtio, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;
/// A request takes one place when it is in a table of its own, as Linux has it.
const QUEUE_SIZES: [u16; 1] = [128];
/// Before other disks and orders get their turn: one may take a disk's time for 8 MiB.
const MAX_REQUESTS_IN_ONE_GO: usize = 16;
/// What is discarded or zeroed at once: a disk does a GiB in its own time, and others wait.
const MAX_DISCARD_SECTORS: u32 = (1 << 30) / SECTOR_BYTES as u32;

/// No segment is longer than the device says.
const SIZE_MAX: u64 = 1 << 1;
/// No request has more segments than the device says.
const SEG_MAX: u64 = 1 << 2;
/// The disk can only be read.
const RO: u64 = 1 << 5;
/// The disk says how long its blocks are.
const BLK_SIZE: u64 = 1 << 6;
/// The driver says when what was written has to stay.
const FLUSH: u64 = 1 << 9;
/// The driver says what it does not need any more.
const DISCARD: u64 = 1 << 13;
/// The driver may have zeros written without sending them.
const WRITE_ZEROES: u64 = 1 << 14;

const ALWAYS: u64 = FEATURE_INDIRECT | SIZE_MAX | SEG_MAX | BLK_SIZE;
const OF_WRITABLE: u64 = FLUSH | DISCARD | WRITE_ZEROES;

const ORDERS: u32 = 0;
const REQUESTS: u32 = 1;

/// What the driver is told of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlkConfig {
    /// How much it holds. What is left of a sector of 512 bytes is not there for the guest.
    pub bytes: u64,
    /// How long its blocks are, a power of two of at least 512: whoever reads or writes less than one makes
    /// the host read it first.
    pub block_bytes: u32,
    /// Nothing is written to it.
    pub read_only: bool,
}

impl BlkConfig {
    const fn sectors(self) -> u64 {
        self.bytes / SECTOR_BYTES
    }

    const fn features(self) -> u64 {
        if self.read_only { ALWAYS | RO } else { ALWAYS | OF_WRITABLE }
    }

    /// The configuration space (section 5.2.4). Sizes of 32 bits are in bytes or in sectors.
    fn encode(self) -> [u8; 60] {
        let mut space = [0; 60];
        let mut put = |at: usize, value: u32| {
            space[at..at + size_of::<u32>()].copy_from_slice(&value.to_le_bytes());
        };
        put(8, MAX_SEGMENT_BYTES);
        put(12, MAX_SEGMENTS);
        put(20, self.block_bytes);
        if !self.read_only {
            // For discarding, then for zeros: how much, in how many pieces; alignment between them.
            put(36, MAX_DISCARD_SECTORS);
            put(40, 1);
            put(44, self.block_bytes / SECTOR_BYTES as u32);
            put(48, MAX_DISCARD_SECTORS);
            put(52, 1);
            put(56, 1);
        }
        space[..8].copy_from_slice(&self.sectors().to_le_bytes());
        space
    }
}

/// The transport's half.
#[derive(Debug)]
pub struct BlkDevice {
    worker: Giver,
    features: u64,
    space: [u8; 60],
}

/// The half of the thread that serves.
#[derive(Debug)]
pub struct Blk {
    orders: Taker,
    poller: Arc<Poller>,
    owner: u32,
    disk: Disk,
    active: Option<Active>,
}

/// The device in service.
#[derive(Debug)]
struct Active {
    activation: Box<Activation>,
    pieces: Pieces,
}

/// A block device, and its worker, which is served by `poller` under the name `owner`. `file` is a disk of the
/// host's, open for as much as the guest may do.
///
/// # Errors
/// When the system has no descriptor left.
pub fn open(
    poller: Arc<Poller>,
    owner: u32,
    file: File,
    config: BlkConfig,
) -> io::Result<(BlkDevice, Blk)> {
    let (worker, orders) = handover::pair()?;
    let token = Token { owner, index: ORDERS };
    poller.add(events::borrow(orders.event()), token, Interest::READ)?;
    let device = BlkDevice { worker, features: config.features(), space: config.encode() };
    let disk = Disk { file, sectors: config.sectors(), read_only: config.read_only };
    Ok((device, Blk { orders, poller, owner, disk, active: None }))
}

impl VirtioDevice for BlkDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Blk
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.space
    }

    fn activate(&mut self, activation: Activation) -> bool {
        self.worker.activate(activation)
    }

    fn reset(&mut self) {
        self.worker.reset();
    }
}

impl Blk {
    /// Deals with an event of its own.
    pub fn handle(&mut self, token: Token) {
        if token.index == ORDERS {
            while let Some(order) = self.orders.take() {
                self.obey(order);
            }
        }
        self.serve();
    }

    /// Lets go of the disk and of everything of the guest's.
    pub fn close(mut self) {
        self.release();
        // Registered when it was opened.
        let _ = self.poller.remove(events::borrow(self.orders.event()));
    }

    fn obey(&mut self, order: Order) {
        self.release();
        match order {
            Order::Activate(activation) => self.activate(activation),
            Order::Reset(acknowledgement) => drop(acknowledgement),
        }
    }

    fn activate(&mut self, activation: Box<Activation>) {
        let token = Token { owner: self.owner, index: REQUESTS };
        let registered = activation.queues.first().map(|queue| {
            self.poller.add(events::borrow(queue.notification()), token, Interest::READ)
        });
        match registered {
            Some(Ok(())) => {
                let pieces = Pieces::new(Arc::clone(&activation.memory));
                self.active = Some(Active { activation, pieces });
            }
            _ => activation.interrupt.needs_reset(),
        }
    }

    fn release(&mut self) {
        let active = self.active.take();
        let queues = active.as_ref().map(|active| &active.activation.queues);
        if let Some(queue) = queues.and_then(|queues| queues.first()) {
            // Registered when it was activated.
            let _ = self.poller.remove(events::borrow(queue.notification()));
        }
    }

    fn serve(&mut self) {
        let Some(Active { activation, pieces }) = &mut self.active else { return };
        let Activation { memory, queues, interrupt, features } = &mut **activation;
        let Some(queue) = queues.first_mut() else { return };
        queue.take_notification();
        let writes_through = *features & FLUSH == 0;
        match serve_queue(queue, memory, &self.disk, pieces, writes_through) {
            Ok(true) => interrupt.used_buffer(),
            Ok(false) => {}
            Err(_) => {
                interrupt.needs_reset();
                self.release();
            }
        }
    }
}

/// Serves what is in the queue; true when the driver wants to hear of it.
fn serve_queue(
    queue: &mut DeviceQueue,
    memory: &GuestRam,
    disk: &Disk,
    pieces: &mut Pieces,
    writes_through: bool,
) -> Result<bool, BrokenQueue> {
    let mut served = 0;
    while served < MAX_REQUESTS_IN_ONE_GO {
        if let Some(chain) = queue.pop(memory)? {
            let head = chain.head_index();
            let answered = answer(chain, memory, disk, pieces, writes_through);
            queue.count_read(answered.read);
            queue.push(memory, head, answered.written)?;
            served += 1;
        } else if !queue.rearm(memory)? {
            break;
        }
    }
    if served == MAX_REQUESTS_IN_ONE_GO {
        queue.call_again();
    }
    Ok(served > 0 && queue.wants_interrupt(memory)?)
}

/// How much of the driver's memory a request has read and written.
#[derive(Clone, Copy, Debug, Default)]
struct Answered {
    read: usize,
    written: u32,
}

/// Does what is asked for, and says what came of it. One that has no room for that gets no answer.
fn answer(
    chain: Chain<'_>,
    memory: &GuestRam,
    disk: &Disk,
    pieces: &mut Pieces,
    writes_through: bool,
) -> Answered {
    pieces.clear();
    let Some(request) = Request::parse(chain, memory, pieces) else { return Answered::default() };
    let done = disk.perform(&request, memory, pieces, writes_through);
    let status = done.err().map_or(request::OK, |failure| failure.status());
    match memory.write_obj(status, request.status) {
        // At most MAX_SEGMENTS of MAX_SEGMENT_BYTES.
        Ok(()) => Answered { read: request.read, written: request.written as u32 + 1 },
        Err(_) => Answered::default(),
    }
}
