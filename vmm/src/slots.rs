//! Windows that are kept for devices which come while the guest runs. Until then they are
//! placeholders, which cost the guest's boot three exits each and the monitor nothing.
//!
//! ```text
//!  empty ──plugged──▶ in use, for as long as the machine lives
//! ```

use std::sync::Mutex;

use cofferdam_virtio::mmio::{MmioTransport, read_placeholder};

use crate::locking::lock;

/// The windows, in order.
#[derive(Debug)]
pub struct Slots {
    windows: Vec<Mutex<Option<MmioTransport>>>,
}

impl Slots {
    /// So many, all empty.
    #[must_use]
    pub fn new(count: u8) -> Self {
        Self { windows: (0..count).map(|_| Mutex::default()).collect() }
    }

    /// The first that is empty.
    #[must_use]
    pub fn free(&self) -> Option<usize> {
        self.windows.iter().position(|window| lock(window).is_none())
    }

    /// Whether any has a device.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.windows.iter().any(|window| lock(window).is_some())
    }

    /// Puts a device into one. The guest finds it when it looks the next time.
    pub fn plug(&self, index: usize, transport: MmioTransport) {
        if let Some(window) = self.windows.get(index) {
            *lock(window) = Some(transport);
        }
    }

    /// The guest reads.
    pub fn read(&self, index: usize, offset: u64, data: &mut [u8]) {
        match self.windows.get(index).map(lock).as_deref() {
            Some(Some(transport)) => transport.read(offset, data),
            Some(None) => read_placeholder(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes.
    pub fn write(&self, index: usize, offset: u64, data: &[u8]) {
        if let Some(Some(transport)) = self.windows.get(index).map(lock).as_deref_mut() {
            transport.write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_slot_is_a_placeholder_and_beyond_them_is_nothing() {
        let slots = Slots::new(2);
        let read = |index| {
            let mut data = [1; 4];
            slots.read(index, 0, &mut data);
            slots.write(index, 0x70, &data);
            data
        };
        assert_eq!([read(0), read(1)], [*b"virt"; 2]);
        assert_eq!(read(2), [0xff; 4]);
        assert_eq!(slots.free(), Some(0));
        assert!(!slots.in_use());
        assert_eq!(Slots::new(0).free(), None);
    }
}
