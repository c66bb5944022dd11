//! What a queue and a device count of themselves, for metrics. Readers are never in a writer's way.
//!
//! Hostile: the rate and the sizes. A sum that is full stays full; it never wraps.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        let sum = |count: u64| Some(count.saturating_add(more));
        // It always has a sum.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one queue has counted since its device was made; a reset of the device changes nothing.
#[derive(Debug, Default)]
pub struct QueueFigures {
    /// How often it was served because of a notification: the driver's, or the device's own after it
    /// had left some work for later. Several that come together are one.
    pub notifications: Count,
    /// Buffers (chains of descriptors) that were given back to the driver.
    pub buffers: Count,
    /// Bytes that were written for the driver.
    pub bytes_to_guest: Count,
    /// Bytes that the driver gave to read.
    pub bytes_from_guest: Count,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_that_is_full_stays_full() {
        let count = Count::default();
        count.add(3);
        count.add(u64::MAX - 1);
        assert_eq!(count.get(), u64::MAX);
        count.add(1);
        assert_eq!(count.get(), u64::MAX);
    }
}
