//! What the threads count for whoever asks: readers are never in a writer's way.

use std::sync::atomic::AtomicU64;

use cofferdam_protocol::monitor_metrics::MonitorExits;
use cofferdam_virtio::figures::Count;

/// The figures of this monitor.
#[derive(Debug, Default)]
pub struct Figures {
    /// The vCPUs' exits to user space.
    pub exits: ExitFigures,
    /// Microseconds from the guest's first instruction to a ready agent; 0 before.
    pub boot_us: AtomicU64,
}

/// Exits to user space, by what the guest wanted.
#[derive(Debug, Default)]
pub struct ExitFigures {
    /// A port was read.
    pub port_read: Count,
    /// A port was written.
    pub port_write: Count,
    /// A register was read.
    pub mmio_read: Count,
    /// A register was written.
    pub mmio_write: Count,
    /// Anything else.
    pub other: Count,
}

impl ExitFigures {
    /// What they are now.
    #[must_use]
    pub fn now(&self) -> MonitorExits {
        MonitorExits {
            port_read: self.port_read.get(),
            port_write: self.port_write.get(),
            mmio_read: self.mmio_read.get(),
            mmio_write: self.mmio_write.get(),
            other: self.other.get(),
        }
    }

    /// All of them.
    #[must_use]
    pub fn sum(&self) -> u64 {
        let Self { port_read, port_write, mmio_read, mmio_write, other } = self;
        let all = [port_read, port_write, mmio_read, mmio_write, other];
        all.into_iter().map(Count::get).fold(0, u64::saturating_add)
    }
}
