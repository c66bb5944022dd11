//! What the threads count for whoever asks: each figure has one writer, and readers are never in
//! its way.

use std::sync::atomic::AtomicU64;

/// The figures of this monitor.
#[derive(Debug, Default)]
pub struct Figures {
    /// The vCPUs' exits to user space.
    pub exits: AtomicU64,
    /// Microseconds from the guest's first instruction to a ready agent; 0 before.
    pub boot_us: AtomicU64,
}
