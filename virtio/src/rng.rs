//! The entropy device (virtio 1.2, section 5.4): fills the driver's buffers from the host's
//! generator.
//!
//! Hostile: the length of a request (bounded), and the rate (a guest spends its own time: one
//! wake-up serves at most one queue full).

use std::io;
use std::sync::Arc;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::device::{Activation, DeviceType, VirtioDevice};
use crate::handover::{self, Giver, Order, Taker};
use crate::memory::GuestRam;
use crate::poll::{Interest, Poller, Readiness, Token};
use crate::queue::{BrokenQueue, DeviceQueue};
use crate::saved::QueuePosition;
use crate::slices::Slices;
use crate::sys;

/// Linux asks for at most a cache line at a time. Without a bound one request could keep the
/// devices thread busy for seconds.
const MAX_REQUEST_BYTES: usize = 4096;
/// Requests wait for nothing, so few are in flight.
const QUEUE_SIZES: [u16; 1] = [16];
/// A guest that asks without pause must not keep the devices thread from its other devices.
const MAX_REQUESTS_IN_ONE_GO: usize = 16;

const ORDERS: u32 = 0;
const REQUESTS: u32 = 1;

/// The transport's half.
#[derive(Debug)]
pub struct RngDevice {
    worker: Giver,
}

/// The devices thread's half.
#[derive(Debug)]
pub struct Rng {
    orders: Taker,
    poller: Arc<Poller>,
    owner: u32,
    active: Option<Box<Activation>>,
}

/// An entropy device whose worker is served by `poller` under the name `owner`.
///
/// # Errors
/// When the system has no descriptor left.
pub fn open(poller: Arc<Poller>, owner: u32) -> io::Result<(RngDevice, Rng)> {
    let (giver, taker) = handover::pair()?;
    let token = Token { owner, index: ORDERS };
    poller.add(sys::borrow(taker.event()), token, Interest::READ)?;
    Ok((RngDevice { worker: giver }, Rng { orders: taker, poller, owner, active: None }))
}

impl VirtioDevice for RngDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn activate(&mut self, activation: Activation) -> bool {
        self.worker.activate(activation)
    }

    fn reset(&mut self) {
        self.worker.reset();
    }
}

impl Rng {
    /// How far its queue is served, when it is in service.
    #[must_use]
    pub fn positions(&self) -> Vec<QueuePosition> {
        let queues = self.active.iter().flat_map(|active| &active.queues);
        queues.map(DeviceQueue::position).collect()
    }

    /// Deals with an event of its own.
    pub fn handle(&mut self, token: Token, _readiness: Readiness) {
        if token.index == ORDERS {
            while let Some(order) = self.orders.take() {
                self.obey(order);
            }
        }
        self.serve();
    }

    fn obey(&mut self, order: Order) {
        self.release();
        match order {
            Order::Activate(activation) => {
                let token = Token { owner: self.owner, index: REQUESTS };
                let queue = activation.queues.first();
                let registered = queue.map(|queue| {
                    self.poller.add(sys::borrow(queue.notification()), token, Interest::READ)
                });
                match registered {
                    Some(Ok(())) => self.active = Some(activation),
                    _ => activation.interrupt.needs_reset(),
                }
            }
            Order::Reset(acknowledgement) => drop(acknowledgement),
        }
    }

    fn release(&mut self) {
        if let Some(queue) = self.active.take().as_ref().and_then(|active| active.queues.first()) {
            // Registered when it was activated.
            let _ = self.poller.remove(sys::borrow(queue.notification()));
        }
    }

    fn serve(&mut self) {
        let Some(active) = &mut self.active else { return };
        let Activation { memory, queues, interrupt, .. } = &mut **active;
        let Some(queue) = queues.first_mut() else { return };
        queue.take_notification();
        match fill_all(queue, memory) {
            Ok(true) => interrupt.used_buffer(),
            Ok(false) => {}
            Err(_) => {
                interrupt.needs_reset();
                self.release();
            }
        }
    }
}

/// Serves what is in the queue; true when the driver wants to hear of it.
fn fill_all(queue: &mut DeviceQueue, memory: &GuestRam) -> Result<bool, BrokenQueue> {
    let mut served = 0;
    while served < MAX_REQUESTS_IN_ONE_GO {
        if let Some(chain) = queue.pop(memory)? {
            let head = chain.head_index();
            let written = Slices::writable(memory, chain).map_or(0, fill);
            queue.push(memory, head, written)?;
            served += 1;
        } else if !queue.rearm(memory)? {
            break;
        }
    }
    if served == MAX_REQUESTS_IN_ONE_GO {
        queue.call_again();
    }
    Ok(served > 0 && queue.wants_interrupt(memory)?)
}

/// Fills at most [`MAX_REQUEST_BYTES`]; a driver takes less than it asked for.
fn fill(mut slices: Slices<'_>) -> u32 {
    let mut entropy = [0; MAX_REQUEST_BYTES];
    let wanted = slices.len().min(MAX_REQUEST_BYTES);
    let Some(buffer) = entropy.get_mut(..wanted) else { return 0 };
    let Ok(count) = getrandom(&mut *buffer, GetRandomFlags::empty()) else { return 0 };
    match buffer.get(..count) {
        Some(bytes) if slices.put(bytes) => u32::try_from(count).unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fuzzing::{BUFFERS, Driver, MEMORY_BYTES, Piece};
    use crate::interrupt::DEVICE_NEEDS_RESET;
    use crate::mmio::STATUS;
    use crate::poll::Events;

    const OWNER: u32 = 3;

    struct Guest {
        driver: Driver,
        rng: Rng,
        poller: Arc<Poller>,
    }

    impl Guest {
        fn new() -> Self {
            let poller = Arc::new(Poller::open().unwrap());
            let (device, rng) = open(Arc::clone(&poller), OWNER).unwrap();
            let driver = Driver::start(Box::new(device), 1);
            Self { driver, rng, poller }
        }

        fn turn(&mut self) {
            let mut events = Events::new();
            while let ready @ [_, ..] = self.poller.wait(&mut events, Some(Duration::ZERO)).unwrap()
            {
                for (token, readiness) in ready {
                    self.rng.handle(*token, *readiness);
                }
            }
        }

        fn request(&mut self, length: u32, writable: bool) -> u32 {
            self.driver.offer(0, &[Piece { address: BUFFERS, length, writable }]).unwrap();
            self.turn();
            self.driver.used(0).unwrap().1
        }
    }

    #[test]
    fn a_request_is_filled() {
        let mut guest = Guest::new();
        assert_eq!(guest.request(64, true), 64);
        assert_ne!(guest.driver.read(BUFFERS, 64), [0; 64]);
        assert!(guest.driver.interrupted());
    }

    #[test]
    fn a_large_request_is_filled_in_part() {
        let mut guest = Guest::new();
        assert_eq!(guest.request(1 << 20, true), 4096);
    }

    #[test]
    fn what_cannot_be_filled_is_returned_empty() {
        let mut guest = Guest::new();
        assert_eq!(guest.request(64, false), 0);
        assert_eq!(guest.request(u32::MAX, true), 0);
        assert_eq!(guest.request(0, true), 0);
        let beyond = Piece { address: MEMORY_BYTES as u64 - 1, length: 2, writable: true };
        guest.driver.offer(0, &[beyond]).unwrap();
        guest.turn();
        assert_eq!(guest.driver.used(0).unwrap().1, 0);
        assert_eq!(guest.request(16, true), 16);
    }

    #[test]
    fn a_full_queue_is_served() {
        let mut guest = Guest::new();
        for _ in 0..16 {
            let piece = Piece { address: BUFFERS, length: 8, writable: true };
            guest.driver.offer(0, &[piece]).unwrap();
        }
        guest.turn();
        assert_eq!(std::iter::from_fn(|| guest.driver.used(0)).count(), 16);
        assert_eq!(guest.request(8, true), 8);
    }

    #[test]
    fn a_broken_queue_stops_the_device() {
        let mut guest = Guest::new();
        guest.driver.jump(0, 17);
        guest.turn();
        assert_ne!(guest.driver.registered(STATUS) & DEVICE_NEEDS_RESET, 0);
    }
}
