//! A split virtqueue (virtio 1.2, section 2.7), as a device uses it.
//!
//! ```text
//!  pop ──▶ a chain, in order ──▶ push: it is the driver's again, and was written so far
//!   │ none                        │ all that there was
//!   ▼                             ▼
//!  rearm: notify me             wants_interrupt?
//! ```
//!
//! Hostile: the rings, at any moment. They are looked for in memory with each call and read once; an
//! index that jumped or a ring that is not there breaks the queue, whose device asks for a reset.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use crate::chain::{Chain, DESCRIPTOR_BYTES};
use crate::figures::QueueFigures;
use crate::memory::{GuestAddress, GuestRam, VolatileMemory as _, VolatileSlice, slice_at};
use crate::saved::QueuePosition;

/// A queue is not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenQueue {
    /// Or does not lie in one piece there.
    #[error("A ring of the queue, or what it leads to, is not in the guest's memory")]
    NotInMemory,
    /// More is available than the queue has places.
    #[error("The driver's index in the queue jumped")]
    Jumped,
    /// A chain that begins behind the end of the table.
    #[error("The driver's queue has no descriptor of that number")]
    NoSuchDescriptor,
}

impl From<vm_memory::GuestMemoryError> for BrokenQueue {
    fn from(_: vm_memory::GuestMemoryError) -> Self {
        Self::NotInMemory
    }
}

/// What a ring begins with, flags and an index, and where the index is (sections 2.7.6, 2.7.8).
const RING_HEADER_BYTES: usize = 4;
const INDEX_OFFSET: usize = 2;
const AVAILABLE_ENTRY_BYTES: usize = 2;
const USED_ENTRY_BYTES: usize = 8;
/// Behind the entries: for which index the other side wants to hear.
const EVENT_BYTES: usize = 2;

/// A chain as the file server's library takes it.
pub(crate) type FuseChain<'m> = virtio_queue::DescriptorChain<&'m GuestRam>;

/// One queue, with the event that the driver's notification raises.
#[derive(Debug)]
pub struct DeviceQueue {
    queue: Queue,
    notification: Arc<EventFd>,
    figures: Arc<QueueFigures>,
    /// How far it was used when the driver was last asked whether it wants to hear of it.
    told: Wrapping<u16>,
}

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

    /// Takes the next available chain.
    ///
    /// # Errors
    /// When the available index is more than the queue's size ahead, or a ring outside memory.
    pub(crate) fn pop<'m>(
        &mut self,
        memory: &'m GuestRam,
    ) -> Result<Option<Chain<'m>>, BrokenQueue> {
        if !self.queue.ready() {
            return Ok(None);
        }
        let (size, next) = (self.queue.size(), Wrapping(self.queue.next_avail()));
        let ring = self.available(memory)?;
        let waiting = index(&ring, Ordering::Acquire)? - next;
        if waiting.0 == 0 {
            return Ok(None);
        }
        if waiting.0 > size {
            return Err(BrokenQueue::Jumped);
        }
        let place = RING_HEADER_BYTES + usize::from(next.0 % size) * AVAILABLE_ENTRY_BYTES;
        let head = read(&ring, place)?;
        let table = GuestAddress(self.queue.desc_table());
        let table = slice_at(memory, table, usize::from(size) * DESCRIPTOR_BYTES);
        self.queue.set_next_avail((next + Wrapping(1)).0);
        Ok(Some(Chain::new(memory, table.ok_or(BrokenQueue::NotInMemory)?, size, head)))
    }

    /// Takes the next available chain for the file server's library, which reads it by itself.
    ///
    /// # Errors
    /// As [`DeviceQueue::pop`].
    pub(crate) fn pop_for_fuse<'m>(
        &mut self,
        memory: &'m GuestRam,
    ) -> Result<Option<FuseChain<'m>>, BrokenQueue> {
        if !self.queue.ready() {
            return Ok(None);
        }
        match self.queue.iter(memory) {
            Ok(mut chains) => Ok(chains.next()),
            Err(virtio_queue::Error::InvalidAvailRingIndex) => Err(BrokenQueue::Jumped),
            Err(_) => Err(BrokenQueue::NotInMemory),
        }
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
        self.push_together(memory, &[(head, written)])
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
        let (size, mut next) = (self.queue.size(), Wrapping(self.queue.next_used()));
        let (ring, mut bytes) = (self.used(memory)?, 0);
        for (head, written) in used {
            if *head >= size {
                return Err(BrokenQueue::NoSuchDescriptor);
            }
            let place = RING_HEADER_BYTES + usize::from(next.0 % size) * USED_ENTRY_BYTES;
            // Four bytes each (section 2.7.8), the chain's number first.
            let entry = (u64::from(*written) << 32 | u64::from(*head)).to_le();
            ring.get_ref(place).map_err(|_| BrokenQueue::NotInMemory)?.store(entry);
            next += 1;
            bytes += u64::from(*written);
        }
        self.queue.set_next_used(next.0);
        self.figures.buffers.add(used.len() as u64);
        self.figures.bytes_to_guest.add(bytes);
        atomic(&ring, INDEX_OFFSET)?.store(next.0.to_le(), Ordering::Release);
        Ok(())
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
        let next = Wrapping(self.queue.next_avail());
        let ring = self.used(memory)?;
        if self.queue.event_idx_enabled() {
            let place = ring.len() - EVENT_BYTES;
            atomic(&ring, place)?.store(next.0.to_le(), Ordering::Relaxed);
        } else {
            // No flag: it is to notify.
            atomic(&ring, 0)?.store(0, Ordering::Relaxed);
        }
        // The driver sees the wish, or this what it has made available before.
        fence(Ordering::SeqCst);
        Ok(index(&self.available(memory)?, Ordering::Acquire)? != next)
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
        let ring = self.available(memory)?;
        let event = Wrapping(read(&ring, ring.len() - EVENT_BYTES)?);
        // Virtio 1.2, section 2.7.7.1: it asked for the moment when this entry is used.
        Ok(now - event - Wrapping(1) < now - before)
    }

    fn available<'m>(&self, memory: &'m GuestRam) -> Result<VolatileSlice<'m>, BrokenQueue> {
        self.ring(memory, self.queue.avail_ring(), AVAILABLE_ENTRY_BYTES)
    }

    fn used<'m>(&self, memory: &'m GuestRam) -> Result<VolatileSlice<'m>, BrokenQueue> {
        self.ring(memory, self.queue.used_ring(), USED_ENTRY_BYTES)
    }

    /// A ring with all that belongs to it: header, entries, event.
    fn ring<'m>(
        &self,
        memory: &'m GuestRam,
        address: u64,
        entry_bytes: usize,
    ) -> Result<VolatileSlice<'m>, BrokenQueue> {
        let entries = usize::from(self.queue.size()) * entry_bytes;
        let length = RING_HEADER_BYTES + entries + EVENT_BYTES;
        slice_at(memory, GuestAddress(address), length).ok_or(BrokenQueue::NotInMemory)
    }
}

fn atomic<'s>(ring: &'s VolatileSlice<'_>, offset: usize) -> Result<&'s AtomicU16, BrokenQueue> {
    // Nor where it is not aligned, which the transport does not take.
    ring.get_atomic_ref(offset).map_err(|_| BrokenQueue::NotInMemory)
}

/// The index of a ring.
fn index(ring: &VolatileSlice<'_>, order: Ordering) -> Result<Wrapping<u16>, BrokenQueue> {
    Ok(Wrapping(u16::from_le(atomic(ring, INDEX_OFFSET)?.load(order))))
}

fn read(ring: &VolatileSlice<'_>, offset: usize) -> Result<u16, BrokenQueue> {
    let value = ring.get_ref::<u16>(offset).map_err(|_| BrokenQueue::NotInMemory)?;
    Ok(u16::from_le(value.load()))
}
