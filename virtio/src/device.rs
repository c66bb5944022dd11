//! What the transport needs to know of a device, and what a device gets when its driver is ready.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use crate::figures::QueueFigures;
use crate::interrupt::Interrupt;
use crate::memory::{Address, Bytes, GuestAddress, GuestRam};
use crate::saved::QueuePosition;

/// The device types of virtio 1.2, section 5, that exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceType {
    /// Network.
    Net = 1,
    /// A disk.
    Blk = 2,
    /// Entropy.
    Rng = 4,
    /// Sockets.
    Vsock = 19,
    /// File system.
    Fs = 26,
}

/// Feature bit: virtio 1.0 and later. Every device offers it, and no driver may decline it.
pub const FEATURE_VERSION_1: u64 = 1 << 32;
/// Feature bit: notifications are suppressed by index, not by flag. Fewer interrupts and exits.
pub const FEATURE_EVENT_IDX: u64 = 1 << 29;
/// Feature bit: a chain may be a table elsewhere, so that it takes one place in its queue.
pub const FEATURE_INDIRECT: u64 = 1 << 28;

/// The transport's half of a device. It lives on the vCPU threads, under the transport's lock.
pub trait VirtioDevice: Send {
    /// Which device this is.
    fn device_type(&self) -> DeviceType;

    /// The features on offer beyond [`FEATURE_VERSION_1`] and [`FEATURE_EVENT_IDX`].
    fn features(&self) -> u64 {
        0
    }

    /// The largest size of each queue: powers of two, at most 32768.
    fn queue_sizes(&self) -> &[u16];

    /// The configuration space, which the driver reads and may not write.
    fn config(&self) -> &[u8];

    /// The driver set `DRIVER_OK`: the device may use its queues. False when nobody is there to
    /// serve it.
    fn activate(&mut self, activation: Activation) -> bool;

    /// The driver resets the device. When this returns the device uses no queue any more.
    fn reset(&mut self);
}

/// Everything that a worker needs to serve a device.
#[derive(Debug)]
pub struct Activation {
    /// The guest's memory.
    pub memory: Arc<GuestRam>,
    /// The features that the driver accepted.
    pub features: u64,
    /// The device's queues in order, those too that the driver left unready.
    pub queues: Vec<DeviceQueue>,
    /// How the driver is told.
    pub interrupt: Interrupt,
}

/// A queue is not to be believed: an address outside memory, or an index that jumped.
#[derive(Debug, thiserror::Error)]
#[error("The driver broke its queue")]
pub struct BrokenQueue(#[source] pub virtio_queue::Error);

impl From<vm_memory::GuestMemoryError> for BrokenQueue {
    fn from(error: vm_memory::GuestMemoryError) -> Self {
        Self(virtio_queue::Error::GuestMemory(error))
    }
}

/// Where the entries of a used ring begin, and how long one is (virtio 1.2, section 2.7.8).
const USED_ENTRIES: u64 = 4;
const USED_ENTRY_BYTES: u64 = 8;
/// Where the entries of an available ring begin, and how long one is (section 2.7.6).
const AVAILABLE_ENTRIES: u64 = 4;
const AVAILABLE_ENTRY_BYTES: u64 = 2;

/// One queue, with the event that the driver's notification raises.
#[derive(Debug)]
pub struct DeviceQueue {
    queue: Queue,
    notification: Arc<EventFd>,
    figures: Arc<QueueFigures>,
    /// How far it was used when the driver was last asked whether it wants to hear of it.
    told: Wrapping<u16>,
}

/// A chain of descriptors that a driver made available.
pub type Chain<'m> = virtio_queue::DescriptorChain<&'m GuestRam>;

impl DeviceQueue {
    /// Takes a queue into service.
    #[must_use]
    pub fn new(queue: Queue, notification: Arc<EventFd>, figures: Arc<QueueFigures>) -> Self {
        let told = Wrapping(queue.next_used());
        Self { queue, notification, figures, told }
    }

    /// How far it is served.
    #[must_use]
    pub fn position(&self) -> QueuePosition {
        let (next_available, next_used) = (self.queue.next_avail(), self.queue.next_used());
        QueuePosition { next_available, next_used }
    }

    /// Raised when the driver made buffers available.
    #[must_use]
    pub fn notification(&self) -> &EventFd {
        &self.notification
    }

    /// Raises the notification as if the driver had, to be called again after the thread's other
    /// work.
    pub fn call_again(&self) {
        // A full counter is a pending notification.
        let _ = self.notification.write(1);
    }

    /// Forgets a notification, when there is one.
    pub fn take_notification(&self) {
        // Nothing to read: woken for something else.
        if self.notification.read().is_ok() {
            self.count_notification();
        }
    }

    /// Counts a notification that is not to be forgotten.
    pub fn count_notification(&self) {
        self.figures.notifications.add(1);
    }

    /// Counts bytes that the driver gave to read.
    pub fn count_read(&self, bytes: usize) {
        self.figures.bytes_from_guest.add(bytes as u64);
    }

    fn count_used(&self, written: u32) {
        self.figures.buffers.add(1);
        self.figures.bytes_to_guest.add(written.into());
    }

    /// Takes the next available chain.
    ///
    /// # Errors
    /// When the available index is more than the queue's size ahead, or outside memory.
    pub fn pop<'m>(&mut self, memory: &'m GuestRam) -> Result<Option<Chain<'m>>, BrokenQueue> {
        if !self.queue.ready() {
            return Ok(None);
        }
        self.queue.iter(memory).map(|mut chains| chains.next()).map_err(BrokenQueue)
    }

    /// Gives the chain taken last back, as if it had not been taken.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Returns a chain to the driver, with the number of bytes written to it.
    ///
    /// # Errors
    /// When the used ring is outside memory.
    pub fn push(&mut self, memory: &GuestRam, head: u16, written: u32) -> Result<(), BrokenQueue> {
        self.queue.add_used(memory, head, written).map_err(BrokenQueue)?;
        self.count_used(written);
        Ok(())
    }

    /// Returns chains that belong together: the driver sees all of them or none.
    ///
    /// # Errors
    /// When the used ring is outside memory.
    pub fn push_together(
        &mut self,
        memory: &GuestRam,
        used: &[(u16, u32)],
    ) -> Result<(), BrokenQueue> {
        let Some(((last, written), before)) = used.split_last() else { return Ok(()) };
        let first = Wrapping(self.queue.next_used());
        let mut next = first;
        for (head, written) in before {
            let mut entry = [0; USED_ENTRY_BYTES as usize];
            entry[..4].copy_from_slice(&u32::from(*head).to_le_bytes());
            entry[4..].copy_from_slice(&written.to_le_bytes());
            memory.write_slice(&entry, self.used_entry(next)?)?;
            self.count_used(*written);
            next += 1;
        }
        self.queue.set_next_used(next.0);
        self.push(memory, *last, *written)
    }

    fn used_entry(&self, index: Wrapping<u16>) -> Result<GuestAddress, BrokenQueue> {
        let place = u64::from(index.0 % self.queue.size().max(1));
        let overflow = BrokenQueue(virtio_queue::Error::AddressOverflow);
        let ring = GuestAddress(self.queue.used_ring());
        ring.checked_add(USED_ENTRIES + place * USED_ENTRY_BYTES).ok_or(overflow)
    }

    /// Asks for notifications, and says whether chains came in the meantime (which will not be
    /// notified).
    ///
    /// # Errors
    /// When a ring is outside memory.
    pub fn rearm(&mut self, memory: &GuestRam) -> Result<bool, BrokenQueue> {
        if !self.queue.ready() {
            return Ok(false);
        }
        self.queue.enable_notification(memory).map_err(BrokenQueue)
    }

    /// Whether the driver wants an interrupt for what was pushed since the last call.
    ///
    /// # Errors
    /// When a ring is outside memory.
    pub fn wants_interrupt(&mut self, memory: &GuestRam) -> Result<bool, BrokenQueue> {
        // What was pushed is to be seen before the driver's answer is read.
        fence(Ordering::SeqCst);
        let (now, before) = (Wrapping(self.queue.next_used()), self.told);
        self.told = now;
        if !self.queue.event_idx_enabled() {
            return Ok(true);
        }
        let entries = u64::from(self.queue.size()) * AVAILABLE_ENTRY_BYTES;
        let overflow = BrokenQueue(virtio_queue::Error::AddressOverflow);
        let ring = GuestAddress(self.queue.avail_ring());
        let place = ring.checked_add(AVAILABLE_ENTRIES + entries).ok_or(overflow)?;
        let event: u16 = memory.load(place, Ordering::Relaxed)?;
        // Virtio 1.2, section 2.7.7.1: it asked for the moment when this entry is used.
        Ok(now - Wrapping(u16::from_le(event)) - Wrapping(1) < now - before)
    }
}
