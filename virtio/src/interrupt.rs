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

/// A worker's handle on its device's interrupt.
#[derive(Debug)]
pub struct Interrupt {
    page: RegisterPage,
    line: Arc<EventFd>,
    raised: Arc<Count>,
}

impl Interrupt {
    /// An interrupt that raises `line`, has its statuses in the page, and counts.
    pub(crate) fn new(page: RegisterPage, line: Arc<EventFd>, raised: Arc<Count>) -> Self {
        Self { page, line, raised }
    }

    /// Tells the driver that there are used buffers.
    pub fn used_buffer(&self) {
        self.raise(USED_BUFFER);
    }

    /// Tells the driver that the device broke off: its queues are not to be believed. The driver
    /// must reset it (virtio 1.2, 2.1.2).
    pub fn needs_reset(&self) {
        self.page.register(STATUS).fetch_or(DEVICE_NEEDS_RESET, Ordering::SeqCst);
        self.raise(CONFIGURATION_CHANGED);
    }

    fn raise(&self, cause: u32) {
        self.page.register(INTERRUPT_STATUS).fetch_or(cause, Ordering::SeqCst);
        self.raised.add(1);
        // A full counter (u64::MAX - 1 pending events) means that the line is raised already.
        let _ = self.line.write(1);
    }
}
