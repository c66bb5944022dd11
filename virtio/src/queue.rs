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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::Bytes as _;

    const SIZE: u16 = 8;
    const TABLE: u64 = 0x1000;
    const AVAILABLE: u64 = 0x2000;
    const USED: u64 = 0x3000;
    const ELSEWHERE: u64 = 0x4000;
    const MEMORY_BYTES: usize = 0x5000;

    fn memory() -> GuestRam {
        GuestRam::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap()
    }

    fn queue(event_idx: bool) -> DeviceQueue {
        let mut queue = Queue::new(SIZE).unwrap();
        queue.try_set_desc_table_address(GuestAddress(TABLE)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        let event = Arc::new(EventFd::new(0).unwrap());
        DeviceQueue::new(queue, event, Arc::new(QueueFigures::default()))
    }

    fn offer(memory: &GuestRam, index: u16, heads: &[u16]) {
        for (place, head) in heads.iter().enumerate() {
            let address = GuestAddress(AVAILABLE + 4 + 2 * place as u64);
            memory.write_obj(*head, address).unwrap();
        }
        memory.write_obj(index, GuestAddress(AVAILABLE + 2)).unwrap();
    }

    /// A descriptor whose fields are mostly such as lead somewhere.
    fn descriptor() -> impl Strategy<Value = [u64; 2]> {
        let address = prop_oneof![
            4 => (0..64_u64).prop_map(|place| ELSEWHERE + 8 * place),
            1 => any::<u64>(),
        ];
        let length =
            prop_oneof![4 => (0..9_u32).prop_map(|n| 16 * n), 1 => 0..200_u32, 1 => any::<u32>()];
        let flags = prop_oneof![8 => 0..8_u16, 1 => any::<u16>()];
        let next = prop_oneof![8 => 0..=SIZE, 1 => any::<u16>()];
        (address, length, flags, next).prop_map(|(address, length, flags, next)| {
            [address, u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever is in the tables, a chain is what virtio-queue makes of it.
        #[test]
        fn a_chain_has_the_descriptors_that_virtio_queue_finds(
            table in prop::collection::vec(descriptor(), usize::from(SIZE)),
            elsewhere in prop::collection::vec(descriptor(), 32),
            head in 0..=SIZE,
        ) {
            let memory = memory();
            for (base, descriptors) in [(TABLE, table), (ELSEWHERE, elsewhere)] {
                for (place, words) in descriptors.into_iter().enumerate() {
                    memory.write_obj(words, GuestAddress(base + 16 * place as u64)).unwrap();
                }
            }
            offer(&memory, 1, &[head]);
            let ours = queue(true).pop(&memory).unwrap().unwrap();
            let theirs = queue(true).pop_for_fuse(&memory).unwrap().unwrap();
            prop_assert_eq!(ours.head_index(), theirs.head_index());
            let (our_reads, our_writes) = (ours.clone().readable(), ours.writable());
            let ours = [our_reads.collect::<Vec<_>>(), our_writes.collect()];
            let theirs = [theirs.clone().readable().collect::<Vec<_>>(), theirs.writable().collect()];
            for (ours, theirs) in ours.iter().zip(&theirs) {
                let ours: Vec<_> = ours.iter().map(|one| (one.addr(), one.len())).collect();
                let theirs: Vec<_> = theirs.iter().map(|one| (one.addr(), one.len())).collect();
                prop_assert_eq!(ours, theirs);
            }
        }
    }

    #[test]
    fn chains_come_in_their_order_once_each() {
        let (memory, mut queue) = (memory(), queue(true));
        assert!(queue.pop(&memory).unwrap().is_none());
        offer(&memory, 3, &[5, 1, 7]);
        let heads: Vec<_> = std::iter::from_fn(|| queue.pop(&memory).unwrap())
            .map(|chain| chain.head_index())
            .collect();
        assert_eq!(heads, [5, 1, 7]);
        queue.undo_pop();
        assert_eq!(queue.pop(&memory).unwrap().unwrap().head_index(), 7);
    }

    #[test]
    fn an_index_that_jumped_breaks_the_queue() {
        let (memory, mut queue) = (memory(), queue(true));
        offer(&memory, SIZE, &[0; SIZE as usize]);
        assert!(queue.pop(&memory).unwrap().is_some());
        offer(&memory, SIZE + 2, &[]);
        assert_eq!(queue.pop(&memory).unwrap_err(), BrokenQueue::Jumped);
    }

    #[test]
    fn chains_that_belong_together_are_seen_together_with_what_was_written() {
        let (memory, mut queue) = (memory(), queue(true));
        queue.push_together(&memory, &[(3, 100), (4, 200)]).unwrap();
        let word = |offset| memory.read_obj::<u32>(GuestAddress(USED + offset)).unwrap();
        assert_eq!([4, 8, 12, 16].map(word), [3, 100, 4, 200]);
        assert_eq!(memory.read_obj::<u16>(GuestAddress(USED + 2)).unwrap(), 2);
        let refused = queue.push(&memory, SIZE, 0).unwrap_err();
        assert_eq!(refused, BrokenQueue::NoSuchDescriptor);
        assert_eq!(memory.read_obj::<u16>(GuestAddress(USED + 2)).unwrap(), 2);
    }

    #[test]
    fn who_asks_for_notifications_hears_of_what_came_meanwhile() {
        for event_idx in [true, false] {
            let (memory, mut queue) = (memory(), queue(event_idx));
            let event = GuestAddress(USED + 4 + 8 * u64::from(SIZE));
            memory.write_obj(1_u16, GuestAddress(USED)).unwrap();
            offer(&memory, 2, &[0, 1]);
            assert!(queue.rearm(&memory).unwrap());
            while queue.pop(&memory).unwrap().is_some() {}
            assert!(!queue.rearm(&memory).unwrap());
            let said = (
                memory.read_obj::<u16>(event).unwrap(),
                memory.read_obj::<u16>(GuestAddress(USED)).unwrap(),
            );
            // The place behind the last that was taken, or no flag that forbids it.
            assert_eq!(said, if event_idx { (2, 1) } else { (0, 0) });
        }
    }

    #[test]
    fn a_driver_is_told_when_what_it_waits_for_is_used() {
        let (memory, mut queue) = (memory(), queue(true));
        let event = GuestAddress(AVAILABLE + 4 + 2 * u64::from(SIZE));
        memory.write_obj(1_u16, event).unwrap();
        let mut told = |count: usize| {
            queue.push_together(&memory, &vec![(0, 0); count]).unwrap();
            queue.wants_interrupt(&memory).unwrap()
        };
        assert!(!told(1));
        assert!(told(1));
        assert!(!told(3));
    }

    #[test]
    fn a_ring_that_is_not_in_memory_breaks_the_queue() {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1008)]).unwrap();
        let mut queue = queue(true);
        assert_eq!(queue.pop(&memory).unwrap_err(), BrokenQueue::NotInMemory);
        assert_eq!(queue.push(&memory, 0, 0).unwrap_err(), BrokenQueue::NotInMemory);
        assert_eq!(queue.rearm(&memory).unwrap_err(), BrokenQueue::NotInMemory);
        assert_eq!(queue.wants_interrupt(&memory).unwrap_err(), BrokenQueue::NotInMemory);
    }
}
