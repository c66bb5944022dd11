//! What the transport needs to know of a device, and what a device gets when its driver is ready.

use std::sync::Arc;

use crate::interrupt::Interrupt;
use crate::memory::GuestRam;
use crate::queue::DeviceQueue;

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
