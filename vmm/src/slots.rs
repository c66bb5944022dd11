//! Windows that are kept for devices which come and go while the guest runs. Without one they are
//! placeholders, which the guest reads without an exit.
//!
//! ```text
//!  empty ──plugged──▶ in use
//!    ▲                  │
//!    └────unplugged─────┘
//! ```
//!
//! A vCPU that resets a device holds its registers until the device's thread has let go of its queues.
//! That thread therefore never waits for them here, but for [`Slots::unplug`], before which it lets go.

use std::sync::Mutex;

use cofferdam_virtio::mmio::{MmioTransport, RegisterPage, TransportFigures};

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
    /// Of the device in it. Held for a moment only, and by no vCPU.
    figures: Mutex<Option<TransportFigures>>,
}

impl Slots {
    /// One for each page, all empty.
    #[must_use]
    pub fn new(pages: impl IntoIterator<Item = RegisterPage>) -> Self {
        let window = |page| Window { page, device: Mutex::default(), figures: Mutex::default() };
        Self { windows: pages.into_iter().map(window).collect() }
    }

    /// The first that is empty, and its registers.
    #[must_use]
    pub fn free(&self) -> Option<(usize, RegisterPage)> {
        let mut windows = self.windows.iter().enumerate();
        let (index, window) = windows.find(|(_, window)| lock(&window.figures).is_none())?;
        Some((index, window.page.clone()))
    }

    /// Whether any has a device.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.windows.iter().any(|window| lock(&window.figures).is_some())
    }

    /// What those count that have a device, each with its place.
    pub fn figures(&self) -> impl Iterator<Item = (usize, TransportFigures)> {
        let windows = self.windows.iter().enumerate();
        windows.filter_map(|(index, window)| Some((index, lock(&window.figures).clone()?)))
    }

    /// Puts a device into one. The guest finds it when it looks the next time.
    pub fn plug(&self, index: usize, transport: MmioTransport) {
        if let Some(window) = self.windows.get(index) {
            *lock(&window.figures) = Some(transport.figures());
            *lock(&window.device) = Some(transport);
        }
    }

    /// Takes the device out of one, once its thread has let go of it: the guest reads nothing but what was
    /// there last until the caller has it vacated, and writes into nothing.
    #[must_use]
    pub fn unplug(&self, index: usize) -> Option<MmioTransport> {
        let window = self.windows.get(index)?;
        let transport = lock(&window.device).take();
        *lock(&window.figures) = None;
        transport
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
    use std::sync::Arc;

    use cofferdam_virtio::device::DeviceType;
    use cofferdam_virtio::memory::{GuestAddress, GuestRam};
    use cofferdam_virtio::poll::Poller;
    use cofferdam_virtio::rng;
    use vmm_sys_util::eventfd::EventFd;

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

    fn transport(page: RegisterPage) -> MmioTransport {
        let poller = Arc::new(Poller::open().unwrap());
        let (device, _) = rng::open(poller, 0).unwrap();
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let line = EventFd::new(0).unwrap();
        MmioTransport::new(Arc::new(memory), Box::new(device), line, page).unwrap()
    }

    #[test]
    fn a_slot_whose_device_was_taken_out_is_a_placeholder_that_another_can_fill() {
        let slots = Slots::new([RegisterPage::unmapped()]);
        let device_id = || {
            let mut data = [0; 4];
            slots.read(0, 8, &mut data);
            u32::from_le_bytes(data)
        };
        for _ in 0..2 {
            let (index, page) = slots.free().unwrap();
            slots.plug(index, transport(page));
            assert!(slots.free().is_none() && slots.in_use());
            assert_eq!((device_id(), slots.figures().count()), (DeviceType::Rng as u32, 1));
            // The driver's first step.
            slots.write(0, 0x70, &1_u32.to_le_bytes());
            slots.unplug(0).unwrap().vacate();
            assert_eq!((device_id(), slots.figures().count()), (0, 0));
            assert!(!slots.in_use() && slots.unplug(0).is_none());
        }
    }
}
