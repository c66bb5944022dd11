//! The device's line to its driver: interrupt status, device status, and the event that KVM turns
//! into an interrupt.
//!
//! Shared between the transport (vCPU threads read and acknowledge) and one worker (which raises).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vmm_sys_util::eventfd::EventFd;

use crate::figures::Count;
use crate::registers::{INTERRUPT_STATUS, RegisterPage, STATUS};

/// Interrupt status: the device used a buffer.
pub const USED_BUFFER: u32 = 1;
/// Interrupt status: the device's configuration or status changed.
pub const CONFIGURATION_CHANGED: u32 = 2;
/// Device status: the device is broken until the driver resets it.
pub const DEVICE_NEEDS_RESET: u32 = 0x40;

/// A way to raise an interrupt at once, on the thread that calls. An event may take one more thread of
/// the host's: where KVM cannot inject in the middle of a signal, it leaves that to a worker of the kernel's.
pub trait Pulse: Send + Sync {
    /// Raises it; false where that failed.
    fn pulse(&self) -> bool;
}

/// A worker's handle on its device's interrupt.
pub struct Interrupt {
    page: RegisterPage,
    line: Arc<EventFd>,
    pulse: Option<Arc<dyn Pulse>>,
    raised: Arc<Count>,
}

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupt").field("raised", &self.raised).finish_non_exhaustive()
    }
}

impl Interrupt {
    /// An interrupt that raises `line`, has its statuses in the page, and counts. The worker's own
    /// thread raises it by `pulse` if there is one.
    pub(crate) fn new(
        page: RegisterPage,
        line: Arc<EventFd>,
        pulse: Option<Arc<dyn Pulse>>,
        raised: Arc<Count>,
    ) -> Self {
        Self { page, line, pulse, raised }
    }

    /// Tells the driver that there are used buffers.
    pub fn used_buffer(&self) {
        self.page.register(INTERRUPT_STATUS).fetch_or(USED_BUFFER, Ordering::SeqCst);
        self.raised.add(1);
        self.signal();
    }

    /// The same at once, if the worker can do that. For its thread alone.
    pub fn used_buffer_at_once(&self) {
        self.page.register(INTERRUPT_STATUS).fetch_or(USED_BUFFER, Ordering::SeqCst);
        self.raised.add(1);
        if !self.pulse.as_ref().is_some_and(|pulse| pulse.pulse()) {
            self.signal();
        }
    }

    /// Tells the driver that the device broke off: its queues are not to be believed. The driver
    /// must reset it (virtio 1.2, 2.1.2).
    pub fn needs_reset(&self) {
        self.page.register(STATUS).fetch_or(DEVICE_NEEDS_RESET, Ordering::SeqCst);
        self.page.register(INTERRUPT_STATUS).fetch_or(CONFIGURATION_CHANGED, Ordering::SeqCst);
        self.raised.add(1);
        // Not by a pulse: a vCPU's thread may find its device broken, and may not do that.
        self.signal();
    }

    fn signal(&self) {
        // A full counter (u64::MAX - 1 pending events) means that the line is raised already.
        let _ = self.line.write(1);
    }
}
