//! A driver for tests: brings a device up by its registers, and works its queues in memory.
//!
//! It can do what a good driver does, and write anything anywhere as a hostile one would.

use std::collections::HashMap;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::device::{FEATURE_EVENT_IDX, FEATURE_VERSION_1, VirtioDevice};
use crate::figures::Count;
use crate::interrupt::Pulse;
use crate::memory::{Bytes, GuestAddress, GuestRam};
use crate::mmio::{
    ACKNOWLEDGE, DRIVER, DRIVER_FEATURES, DRIVER_FEATURES_SEL, DRIVER_OK, FEATURES_OK,
    INTERRUPT_ACK, MmioTransport, QUEUE_DESC_LOW, QUEUE_DEVICE_LOW, QUEUE_DRIVER_LOW,
    QUEUE_NOTIFY_OFFSET, QUEUE_NUM, QUEUE_READY, QUEUE_SEL, RegisterPage, STATUS,
};
use crate::saved::QueuePosition;

/// The guest's memory.
pub const MEMORY_BYTES: usize = 8 << 20;
/// The size of every queue.
pub const QUEUE_SIZE: u16 = 16;
/// Where buffers begin; the queues lie below.
pub const BUFFERS: u64 = 0x10_0000;

const QUEUE_STRIDE: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x8000;

const FLAG_NEXT: u16 = 1;
const FLAG_WRITABLE: u16 = 2;

/// A piece of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Where in guest memory.
    pub address: u64,
    /// How long.
    pub length: u32,
    /// Whether the device may write it.
    pub writable: bool,
}

/// A driver and the device it drives.
pub struct Driver {
    transport: MmioTransport,
    memory: Arc<GuestRam>,
    queues: Vec<Queue>,
    line: EventFd,
    pulses: Arc<Pulses>,
}

/// Raises the line and counts how often it is asked to.
struct Pulses {
    line: EventFd,
    count: Count,
}

impl Pulse for Pulses {
    fn pulse(&self) -> bool {
        self.count.add(1);
        self.line.write(1).is_ok()
    }
}

#[derive(Default)]
struct Queue {
    offered: u16,
    seen: u16,
    free: Vec<u16>,
    chains: HashMap<u16, Vec<u16>>,
}

impl Driver {
    /// Brings a device with so many queues into service.
    pub fn start(device: Box<dyn VirtioDevice>, queues: u16) -> Self {
        Self::start_with(device, queues, 0)
    }

    /// The same, with these features accepted beside the usual ones.
    pub fn start_with(device: Box<dyn VirtioDevice>, queues: u16, features: u64) -> Self {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        let memory = Arc::new(memory);
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let raised = line.try_clone().unwrap();
        let transport =
            MmioTransport::new(Arc::clone(&memory), device, line, RegisterPage::unmapped())
                .unwrap();
        let pulses =
            Arc::new(Pulses { line: raised.try_clone().unwrap(), count: Count::default() });
        let transport = transport.with_pulse(Arc::clone(&pulses) as _);
        let fresh = || Queue { free: (0..QUEUE_SIZE).rev().collect(), ..Queue::default() };
        let queues = (0..queues).map(|_| fresh()).collect();
        let mut driver = Self { transport, memory, queues, line: raised, pulses };
        driver.bring_up(FEATURE_VERSION_1 | FEATURE_EVENT_IDX | features);
        driver
    }

    fn bring_up(&mut self, features: u64) {
        self.register(STATUS, ACKNOWLEDGE | DRIVER);
        for (select, word) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.register(DRIVER_FEATURES_SEL, select);
            self.register(DRIVER_FEATURES, word);
        }
        self.register(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        for queue in 0..self.queues.len() as u32 {
            let base = base(queue as usize) as u32;
            self.register(QUEUE_SEL, queue);
            self.register(QUEUE_NUM, QUEUE_SIZE.into());
            self.register(QUEUE_DESC_LOW, base);
            self.register(QUEUE_DRIVER_LOW, base + AVAILABLE as u32);
            self.register(QUEUE_DEVICE_LOW, base + USED as u32);
            self.register(QUEUE_READY, 1);
        }
        self.register(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Puts another device behind the registers, as after a machine was restored.
    pub fn restore_into(&mut self, device: Box<dyn VirtioDevice>, positions: &[QueuePosition]) {
        let state = self.transport.save(positions);
        let line = self.line.try_clone().unwrap();
        self.transport =
            MmioTransport::new(Arc::clone(&self.memory), device, line, RegisterPage::unmapped())
                .unwrap();
        self.transport.restore(&state).unwrap();
    }

    /// Writes a register.
    pub fn register(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Reads a register.
    pub fn registered(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestRam {
        &self.memory
    }

    /// Writes bytes that must fit into memory.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    /// Reads bytes that must be in memory.
    pub fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Offers a chain, if there are descriptors left for it; says its head.
    pub fn offer(&mut self, queue: usize, pieces: &[Piece]) -> Option<u16> {
        let state = &mut self.queues[queue];
        if state.free.len() < pieces.len() || pieces.is_empty() {
            return None;
        }
        let indices: Vec<u16> = pieces.iter().filter_map(|_| state.free.pop()).collect();
        for (position, (index, piece)) in indices.iter().zip(pieces).enumerate() {
            let next = indices.get(position + 1);
            let flags = if piece.writable { FLAG_WRITABLE } else { 0 }
                | if next.is_some() { FLAG_NEXT } else { 0 };
            self.descriptor(queue, *index, piece, flags, next.copied().unwrap_or(0));
        }
        let head = indices[0];
        self.queues[queue].chains.insert(head, indices);
        self.announce(queue, head);
        Some(head)
    }

    /// How many descriptors are free.
    pub fn room(&self, queue: usize) -> usize {
        self.queues[queue].free.len()
    }

    /// Writes a descriptor as it is.
    pub fn descriptor(&self, queue: usize, index: u16, piece: &Piece, flags: u16, next: u16) {
        let at = base(queue) + 16 * u64::from(index);
        self.write(at, &piece.address.to_le_bytes());
        self.write(at + 8, &piece.length.to_le_bytes());
        self.write(at + 12, &flags.to_le_bytes());
        self.write(at + 14, &next.to_le_bytes());
    }

    /// Makes a head available, whatever it is, and notifies the device.
    pub fn announce(&mut self, queue: usize, head: u16) {
        let offered = self.queues[queue].offered;
        let ring = base(queue) + AVAILABLE;
        self.write(ring + 4 + 2 * u64::from(offered % QUEUE_SIZE), &head.to_le_bytes());
        self.queues[queue].offered = offered.wrapping_add(1);
        self.write(ring + 2, &self.queues[queue].offered.to_le_bytes());
        self.register(QUEUE_NOTIFY_OFFSET, queue as u32);
    }

    /// Claims to have made so many chains more available than it has.
    pub fn jump(&mut self, queue: usize, ahead: u16) {
        let index = self.queues[queue].offered.wrapping_add(ahead);
        self.write(base(queue) + AVAILABLE + 2, &index.to_le_bytes());
        self.register(QUEUE_NOTIFY_OFFSET, queue as u32);
    }

    /// The next chain that the device is done with, and how much it wrote; asks for an interrupt
    /// for the one after.
    pub fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let ring = base(queue) + USED;
        let seen = self.queues[queue].seen;
        let index: u16 = self.memory.read_obj(GuestAddress(ring + 2)).unwrap();
        if index == seen {
            return None;
        }
        let at = ring + 4 + 8 * u64::from(seen % QUEUE_SIZE);
        let head: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
        let written: u32 = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
        let state = &mut self.queues[queue];
        state.seen = seen.wrapping_add(1);
        let indices = state.chains.remove(&(head as u16)).unwrap_or_default();
        state.free.extend(indices);
        let event = base(queue) + AVAILABLE + 4 + 2 * u64::from(QUEUE_SIZE);
        self.write(event, &self.queues[queue].seen.to_le_bytes());
        Some((head as u16, written))
    }

    /// How many notifications of a queue nobody has read; now they are.
    pub fn unread_notifications(&self, queue: usize) -> u64 {
        let event = self.transport.notifiers().nth(queue);
        event.and_then(|(_, event)| event.read().ok()).unwrap_or(0)
    }

    /// How often the device interrupted at once.
    pub fn pulses(&self) -> u64 {
        self.pulses.count.get()
    }

    /// Whether the device raised its interrupt since the last call.
    pub fn interrupted(&mut self) -> bool {
        self.register(INTERRUPT_ACK, u32::MAX);
        self.line.read().is_ok()
    }
}

fn base(queue: usize) -> u64 {
    QUEUE_STRIDE * (queue as u64 + 1)
}
