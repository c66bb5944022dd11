//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2): one page of registers for each
//! device.
//!
//! ```text
//!                        Status |= FEATURES_OK          Status |= DRIVER_OK
//!   (reset) ─▶ (driver) ──────────────────▶ (negotiated) ─────────────────▶ (in service)
//!      ▲          │  refused when the driver      │ queues are set up here      │
//!      │          │  wants what is not on offer   │ and nowhere else            │
//!      │          ▼                               ▼ bad queue, no worker        ▼ bad queue
//!      └───── Status = 0 ◀──────────────── (needs reset) ◀──────────────────────┘
//! ```
//!
//! The driver owns every transition but that to *needs reset*. A bit once set stays until a reset.
//! A write that does not fit the state is ignored, a read of nothing gives zero: the driver can
//! only confuse itself.
//!
//! Hostile: offset, width and value of every access, in any order. Several vCPUs may come at once:
//! the caller holds a lock around the transport.
//!
//! What this is not: it does not know at which address or interrupt it lies. Notifications should
//! come by the caller's ioeventfds ([`MmioTransport::notifiers`]); those that come as register
//! writes are passed on. The same goes for reads, which the guest can do by itself ([`RegisterPages`]).
//!
//! A driver acknowledges each interrupt of a queue with the same write, which the caller may have
//! end at an event that nobody looks at ([`INTERRUPT_ACK_OFFSET`]). The bit then stays: it is set
//! again before each interrupt anyway, and a driver that reads it without one looks into its queues
//! in vain.

mod restore;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemory;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::device::{Activation, DeviceType, FEATURE_EVENT_IDX, FEATURE_VERSION_1, VirtioDevice};
use crate::figures::{Count, QueueFigures};
use crate::interrupt::{DEVICE_NEEDS_RESET, Interrupt, Pulse, USED_BUFFER};
use crate::memory::{GuestAddress, GuestRam};
use crate::queue::DeviceQueue;
use crate::saved::{QueuePosition, QueueState};

/// Where in the page a driver writes the number of a queue to notify it: 32 bits.
pub const QUEUE_NOTIFY_OFFSET: u64 = QUEUE_NOTIFY;
/// Where in the page a driver acknowledges an interrupt: 32 bits, the bits of the status.
pub const INTERRUPT_ACK_OFFSET: u64 = INTERRUPT_ACK;
/// What it writes there after an interrupt of a queue.
pub const USED_BUFFER_ACK: u32 = USED_BUFFER;

const DEVICE_ID: u64 = 0x008;
const VENDOR_ID: u64 = 0x00c;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SEL: u64 = 0x014;
pub(crate) const DRIVER_FEATURES: u64 = 0x020;
pub(crate) const DRIVER_FEATURES_SEL: u64 = 0x024;
pub(crate) const QUEUE_SEL: u64 = 0x030;
const QUEUE_NUM_MAX: u64 = 0x034;
pub(crate) const QUEUE_NUM: u64 = 0x038;
pub(crate) const QUEUE_READY: u64 = 0x044;
const QUEUE_NOTIFY: u64 = 0x050;
pub(crate) const INTERRUPT_ACK: u64 = 0x064;
pub(crate) const QUEUE_DESC_LOW: u64 = 0x080;
const QUEUE_DESC_HIGH: u64 = 0x084;
pub(crate) const QUEUE_DRIVER_LOW: u64 = 0x090;
const QUEUE_DRIVER_HIGH: u64 = 0x094;
pub(crate) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
const SHM_LEN_LOW: u64 = 0x0b0;
const SHM_BASE_HIGH: u64 = 0x0bc;
const CONFIG: u64 = 0x100;

const VENDOR: u32 = u32::from_le_bytes(*b"coff");
/// A length of all ones says that a shared memory region does not exist.
const NO_SHARED_MEMORY: u32 = u32::MAX;

pub(crate) const ACKNOWLEDGE: u32 = 1;
pub(crate) const DRIVER: u32 = 2;
pub(crate) const DRIVER_OK: u32 = 4;
pub(crate) const FEATURES_OK: u32 = 8;
const FAILED: u32 = 0x80;

pub(crate) use crate::registers::{INTERRUPT_STATUS, STATUS};
#[cfg(test)]
use crate::registers::{MAGIC, MAGIC_VALUE, MMIO_VERSION, VERSION};
pub use crate::registers::{REGISTER_BYTES, RegisterPage, RegisterPages};
pub use restore::InvalidTransport;

/// One device's register page.
pub struct MmioTransport {
    memory: Arc<GuestRam>,
    device: Box<dyn VirtioDevice>,
    page: RegisterPage,
    line: Arc<EventFd>,
    pulse: Option<Arc<dyn Pulse>>,
    raised: Arc<Count>,
    notifications: Vec<Arc<EventFd>>,
    figures: Vec<Arc<QueueFigures>>,
    queues: Vec<QueueRegisters>,
    queue_select: u32,
    features: Features,
}

/// What a device counts, for whoever must not wait for its registers: a vCPU holds these while it
/// resets a device, and the device's thread must answer meanwhile.
#[derive(Clone, Debug)]
pub struct TransportFigures {
    /// Which device this is.
    pub device: DeviceType,
    raised: Arc<Count>,
    /// What each queue has counted, in order.
    pub queues: Vec<Arc<QueueFigures>>,
}

impl TransportFigures {
    /// How often the device has raised its interrupt.
    #[must_use]
    pub fn interrupts(&self) -> u64 {
        self.raised.get()
    }
}

impl std::fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioTransport")
            .field("device", &self.device.device_type())
            .field("status", &self.device_status())
            .finish_non_exhaustive()
    }
}

impl MmioTransport {
    /// Puts a device behind registers; `line` is raised for each of its interrupts.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new(
        memory: Arc<GuestRam>,
        device: Box<dyn VirtioDevice>,
        line: EventFd,
        page: RegisterPage,
    ) -> io::Result<Self> {
        let queues: Vec<_> =
            device.queue_sizes().iter().map(|max| QueueRegisters::new(*max)).collect();
        let event = |_: &QueueRegisters| EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map(Arc::new);
        let notifications = queues.iter().map(event).collect::<io::Result<_>>()?;
        let features = Features::offering(device.features());
        let line = Arc::new(line);
        let figures = queues.iter().map(|_| Arc::default()).collect();
        let transport = Self {
            memory,
            device,
            page,
            line,
            pulse: None,
            raised: Arc::default(),
            notifications,
            figures,
            queues,
            queue_select: 0,
            features,
        };
        transport.publish_constants();
        transport.publish();
        Ok(transport)
    }

    /// Has the device's worker raise interrupts by itself instead of by the line. Before the driver
    /// has it in service.
    #[must_use]
    pub fn with_pulse(mut self, pulse: Arc<dyn Pulse>) -> Self {
        self.pulse = Some(pulse);
        self
    }

    /// For each queue the number that the driver writes to [`QUEUE_NOTIFY_OFFSET`], and the event
    /// to raise when it does.
    pub fn notifiers(&self) -> impl Iterator<Item = (u32, &EventFd)> {
        (0..).zip(self.notifications.iter().map(Arc::as_ref))
    }

    /// What is raised for each of its interrupts.
    #[must_use]
    pub fn line(&self) -> &EventFd {
        &self.line
    }

    /// What it counts, now and later.
    #[must_use]
    pub fn figures(&self) -> TransportFigures {
        let (device, raised) = (self.device.device_type(), Arc::clone(&self.raised));
        TransportFigures { device, raised, queues: self.figures.clone() }
    }

    /// Leaves the window to another device. Its own must be let go of before: nobody answers for it
    /// any more.
    pub fn vacate(self) {
        self.page.become_placeholder();
    }

    /// Whether the guest's kernel drives the device.
    #[must_use]
    pub fn driver_ok(&self) -> bool {
        self.device_status() & DRIVER_OK != 0
    }

    /// The guest reads registers.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        self.page.read(offset, data);
    }

    /// The guest writes a register. The configuration space of all devices here is read-only.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else { return };
        match offset {
            DEVICE_FEATURES_SEL => self.features.device_select = value,
            DRIVER_FEATURES_SEL => self.features.driver_select = value,
            DRIVER_FEATURES if self.device_status() & FEATURES_OK == 0 => {
                self.features.accept(value);
            }
            QUEUE_SEL => self.queue_select = value,
            QUEUE_NOTIFY => self.notify(value),
            INTERRUPT_ACK => {
                self.page.register(INTERRUPT_STATUS).fetch_and(!value, Ordering::SeqCst);
            }
            STATUS => self.write_status(value),
            _ if self.queues_may_change() => {
                if let Some(queue) = self.selected_queue() {
                    self.queues[queue].write(offset, value);
                }
            }
            _ => {}
        }
        self.publish();
    }

    /// What never changes. The type comes last: with it the window is no placeholder any more.
    fn publish_constants(&self) {
        self.page.put(VENDOR_ID, VENDOR);
        for offset in (SHM_LEN_LOW..=SHM_BASE_HIGH).step_by(size_of::<u32>()) {
            self.page.put(offset, NO_SHARED_MEMORY);
        }
        // The configuration spaces here never change, nor does their generation.
        self.page.put_bytes(CONFIG, self.device.config());
        self.page.put(DEVICE_ID, self.device.device_type() as u32);
    }

    /// What depends on what the driver wrote.
    fn publish(&self) {
        let queue = self.selected_queue().and_then(|queue| self.queues.get(queue));
        self.page.put(DEVICE_FEATURES, self.features.offered_word());
        self.page.put(QUEUE_NUM_MAX, queue.map_or(0, |queue| queue.max_size.into()));
        self.page.put(QUEUE_READY, queue.map_or(0, |queue| queue.ready.into()));
    }

    fn device_status(&self) -> u32 {
        self.page.register(STATUS).load(Ordering::SeqCst)
    }

    fn selected_queue(&self) -> Option<usize> {
        usize::try_from(self.queue_select).ok().filter(|queue| *queue < self.queues.len())
    }

    fn queues_may_change(&self) -> bool {
        let dead = DRIVER_OK | DEVICE_NEEDS_RESET | FAILED;
        self.device_status() & (FEATURES_OK | dead) == FEATURES_OK
    }

    fn notify(&self, queue: u32) {
        let event = usize::try_from(queue).ok().and_then(|queue| self.notifications.get(queue));
        if let Some(event) = event {
            // A full counter is a pending notification.
            let _ = event.write(1);
        }
    }

    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let current = self.device_status();
        let added = value & !current;
        let mut next = current | (added & (ACKNOWLEDGE | DRIVER | FAILED));
        if added & FEATURES_OK != 0 && next & DRIVER != 0 && self.features.acceptable() {
            next |= FEATURES_OK;
        }
        let broken = DEVICE_NEEDS_RESET | FAILED;
        let serve = added & DRIVER_OK != 0 && next & FEATURES_OK != 0 && next & broken == 0;
        if serve {
            next |= DRIVER_OK;
        }
        // The worker adds DEVICE_NEEDS_RESET at any time: never overwrite, only add.
        self.page.register(STATUS).fetch_or(next, Ordering::SeqCst);
        if serve && !self.activate() {
            self.interrupt().needs_reset();
        }
    }

    fn activate(&mut self) -> bool {
        let fresh = vec![QueuePosition::default(); self.queues.len()];
        self.activate_at(&fresh)
    }

    /// Brings the device into service with queues that were served this far.
    fn activate_at(&mut self, positions: &[QueuePosition]) -> bool {
        let event_idx = self.features.accepted & FEATURE_EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        let registers = self.queues.iter().zip(&self.notifications).zip(&self.figures);
        for (((registers, event), figures), position) in registers.zip(positions) {
            let Some(mut queue) = registers.build(&self.memory, event_idx) else { return false };
            queue.set_next_avail(position.next_available);
            queue.set_next_used(position.next_used);
            queues.push(DeviceQueue::new(queue, Arc::clone(event), Arc::clone(figures)));
        }
        let interrupt = self.interrupt();
        let (memory, features) = (Arc::clone(&self.memory), self.features.accepted);
        self.device.activate(Activation { memory, features, queues, interrupt })
    }

    /// No system call, and no new descriptor: this is a vCPU's thread, confined to little.
    fn interrupt(&self) -> Interrupt {
        let (line, pulse) = (Arc::clone(&self.line), self.pulse.clone());
        Interrupt::new(self.page.clone(), line, pulse, Arc::clone(&self.raised))
    }

    fn reset(&mut self) {
        self.device.reset();
        self.page.put(STATUS, 0);
        self.page.put(INTERRUPT_STATUS, 0);
        self.queue_select = 0;
        self.features = Features::offering(self.device.features());
        for queue in &mut self.queues {
            *queue = QueueRegisters::new(queue.max_size);
        }
        for event in &self.notifications {
            // Nothing to read: no notification was pending.
            let _ = event.read();
        }
    }
}

/// The feature registers: 64 bits behind a window of 32.
struct Features {
    offered: u64,
    accepted: u64,
    device_select: u32,
    driver_select: u32,
}

impl Features {
    fn offering(device: u64) -> Self {
        let offered = device | FEATURE_VERSION_1 | FEATURE_EVENT_IDX;
        Self { offered, accepted: 0, device_select: 0, driver_select: 0 }
    }

    fn offered_word(&self) -> u32 {
        let [low, high] = words(self.offered);
        match self.device_select {
            0 => low,
            1 => high,
            _ => 0,
        }
    }

    fn accept(&mut self, value: u32) {
        let [low, high] = words(self.accepted);
        match self.driver_select {
            0 => self.accepted = join(value, high),
            1 => self.accepted = join(low, value),
            _ => {}
        }
    }

    fn acceptable(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & FEATURE_VERSION_1 != 0
    }
}

/// What the driver wrote for one queue.
struct QueueRegisters {
    max_size: u16,
    size: u32,
    ready: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
}

impl QueueRegisters {
    fn new(max_size: u16) -> Self {
        Self { max_size, size: 0, ready: false, descriptors: 0, driver: 0, device: 0 }
    }

    fn write(&mut self, offset: u64, value: u32) {
        let low = |address: u64| join(value, words(address)[1]);
        let high = |address: u64| join(words(address)[0], value);
        match offset {
            QUEUE_READY => self.ready = value & 1 != 0,
            // A queue in use keeps its shape.
            _ if self.ready => {}
            QUEUE_NUM => self.size = value,
            QUEUE_DESC_LOW => self.descriptors = low(self.descriptors),
            QUEUE_DESC_HIGH => self.descriptors = high(self.descriptors),
            QUEUE_DRIVER_LOW => self.driver = low(self.driver),
            QUEUE_DRIVER_HIGH => self.driver = high(self.driver),
            QUEUE_DEVICE_LOW => self.device = low(self.device),
            QUEUE_DEVICE_HIGH => self.device = high(self.device),
            _ => {}
        }
    }

    fn state(&self, position: QueuePosition) -> QueueState {
        let Self { size, ready, descriptors, driver, device, .. } = *self;
        QueueState { size, ready, descriptors, driver, device, position }
    }

    fn of_state(max_size: u16, state: &QueueState) -> Self {
        let QueueState { size, ready, descriptors, driver, device, position: _ } = *state;
        Self { max_size, size, ready, descriptors, driver, device }
    }

    /// The queue as it is served, if its size is possible and its rings are in memory. One that
    /// the driver left unready is served by nobody, and need not be valid.
    fn build(&self, memory: &GuestRam, event_idx: bool) -> Option<Queue> {
        let mut queue = Queue::new(self.max_size).ok()?;
        if !self.ready {
            return Some(queue);
        }
        queue.try_set_size(u16::try_from(self.size).ok()?).ok()?;
        queue.try_set_desc_table_address(GuestAddress(self.descriptors)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(self.driver)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(self.device)).ok()?;
        let size = usize::try_from(self.size).ok()?;
        // Virtio 1.2, section 2.7: the sizes of the three areas, with the event indices.
        let inside = |address, length| memory.check_range(GuestAddress(address), length);
        let valid = inside(self.descriptors, 16 * size)
            && inside(self.driver, 6 + 2 * size)
            && inside(self.device, 6 + 8 * size);
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        valid.then_some(queue)
    }
}

fn words(value: u64) -> [u32; 2] {
    let [b0, b1, b2, b3, b4, b5, b6, b7] = value.to_le_bytes();
    [u32::from_le_bytes([b0, b1, b2, b3]), u32::from_le_bytes([b4, b5, b6, b7])]
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests;
