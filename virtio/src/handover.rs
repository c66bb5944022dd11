//! How a device's two halves meet: the transport's half hands queues over when the driver is
//! ready, and takes them back when it resets the device.
//!
//! ```text
//!            activate                     reset: waits
//!  (idle) ───────────────▶ (in service) ───────────────▶ (idle)
//! ```
//!
//! A reset returns only when the worker has let go of its queues: the driver may then reuse their
//! memory. A worker that is gone counts as one that has let go.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::device::Activation;

/// What the transport asks of a worker.
#[derive(Debug)]
pub enum Order {
    /// Serve these queues.
    Activate(Box<Activation>),
    /// Let go of the queues, then drop this.
    Reset(Acknowledgement),
}

/// Dropping it tells the transport that the worker let go of its queues.
#[derive(Debug)]
pub struct Acknowledgement(#[expect(dead_code, reason = "its drop is the message")] SyncSender<()>);

/// The transport's end.
#[derive(Debug)]
pub struct Giver {
    orders: Sender<Order>,
    wake: EventFd,
    in_service: bool,
}

/// The worker's end.
#[derive(Debug)]
pub struct Taker {
    orders: Receiver<Order>,
    wake: EventFd,
}

/// Two ends that belong together.
///
/// # Errors
/// When the system has no descriptor left.
pub fn pair() -> io::Result<(Giver, Taker)> {
    let wake = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
    let (sender, receiver) = mpsc::channel();
    let giver = Giver { orders: sender, wake: wake.try_clone()?, in_service: false };
    Ok((giver, Taker { orders: receiver, wake }))
}

impl Giver {
    /// Hands an activation over. False when the worker is gone.
    pub fn activate(&mut self, activation: Activation) -> bool {
        let sent = self.send(Order::Activate(Box::new(activation)));
        self.in_service = sent;
        sent
    }

    /// Takes the queues back; returns when the worker has let go of them.
    pub fn reset(&mut self) {
        if !std::mem::take(&mut self.in_service) {
            return;
        }
        let (acknowledge, acknowledged) = mpsc::sync_channel(0);
        if self.send(Order::Reset(Acknowledgement(acknowledge))) {
            // An error is the message: the sender was dropped.
            let _ = acknowledged.recv();
        }
    }

    fn send(&self, order: Order) -> bool {
        // The counter cannot be full: each order adds one.
        self.orders.send(order).is_ok() && self.wake.write(1).is_ok()
    }
}

impl Taker {
    /// Readable when there is an order.
    #[must_use]
    pub fn event(&self) -> &EventFd {
        &self.wake
    }

    /// The next order, if there is one.
    #[must_use]
    pub fn take(&self) -> Option<Order> {
        // Nothing to read: the event was taken with an earlier order.
        let _ = self.wake.read();
        self.orders.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_of_an_idle_device_does_not_wait() {
        let (mut giver, _taker) = pair().unwrap();
        giver.reset();
    }

    #[test]
    fn a_reset_does_not_wait_for_a_worker_that_is_gone() {
        let (mut giver, taker) = pair().unwrap();
        giver.in_service = true;
        drop(taker);
        giver.reset();
    }

    #[test]
    fn a_reset_waits_until_the_worker_lets_go() {
        let (mut giver, taker) = pair().unwrap();
        giver.in_service = true;
        let worker = std::thread::spawn(move || {
            loop {
                if let Some(Order::Reset(acknowledgement)) = taker.take() {
                    drop(acknowledgement);
                    break;
                }
                std::thread::yield_now();
            }
        });
        giver.reset();
        worker.join().unwrap();
    }
}
