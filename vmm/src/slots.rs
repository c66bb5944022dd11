//! Windows that are kept for devices which come while the guest runs. Until then they are
//! placeholders, which the guest reads without an exit.
//!
//! ```text
//!  empty ──plugged──▶ in use, for as long as the machine lives
//! ```

use std::sync::Mutex;

use cofferdam_virtio::mmio::{MmioTransport, RegisterPage};

use crate::locking::lock;

/// The windows, in order.
#[derive(Debug)]
pub struct Slots {
    windows: Vec<Window>,
}

#[derive(Debug)]
struct Window {
    page: RegisterPage,
    device: Mutex<Option<MmioTransport>>,
}

impl Slots {
    /// One for each page, all empty.
    #[must_use]
    pub fn new(pages: impl IntoIterator<Item = RegisterPage>) -> Self {
        let window = |page| Window { page, device: Mutex::default() };
        Self { windows: pages.into_iter().map(window).collect() }
    }

    /// The first that is empty, and its registers.
    #[must_use]
    pub fn free(&self) -> Option<(usize, RegisterPage)> {
        let mut windows = self.windows.iter().enumerate();
        let (index, window) = windows.find(|(_, window)| lock(&window.device).is_none())?;
        Some((index, window.page.clone()))
    }

    /// Whether any has a device.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.windows.iter().any(|window| lock(&window.device).is_some())
    }

    /// Looks at those that have a device, in order.
    pub fn for_each(&self, mut look: impl FnMut(&MmioTransport)) {
        for window in &self.windows {
            if let Some(transport) = lock(&window.device).as_ref() {
                look(transport);
            }
        }
    }

    /// Puts a device into one. The guest finds it when it looks the next time.
    pub fn plug(&self, index: usize, transport: MmioTransport) {
        if let Some(window) = self.windows.get(index) {
            *lock(&window.device) = Some(transport);
        }
    }

    /// The guest reads, and could have done so by itself.
    pub fn read(&self, index: usize, offset: u64, data: &mut [u8]) {
        match self.windows.get(index) {
            Some(window) => window.page.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes.
    pub fn write(&self, index: usize, offset: u64, data: &[u8]) {
        let Some(window) = self.windows.get(index) else { return };
        if let Some(transport) = lock(&window.device).as_mut() {
            transport.write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_slot_is_a_placeholder_and_beyond_them_is_nothing() {
        let slots = Slots::new([RegisterPage::unmapped(), RegisterPage::unmapped()]);
        let read = |index| {
            let mut data = [1; 4];
            slots.read(index, 0, &mut data);
            slots.write(index, 0x70, &data);
            data
        };
        assert_eq!([read(0), read(1)], [*b"virt"; 2]);
        assert_eq!(read(2), [0xff; 4]);
        assert_eq!(slots.free().map(|(index, _)| index), Some(0));
        assert!(!slots.in_use());
        assert!(Slots::new([]).free().is_none());
    }
}
