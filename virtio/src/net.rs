//! The network device (virtio 1.2, section 5.1): frames between a guest and a tap of the host's.
//!
//! ```text
//!  driver's receive queue ◀── pieces of guest memory ◀── readv ── tap
//!  driver's transmit queue ── header checked ──▶ writev ─────────▶ tap
//! ```
//!
//! Frames are not copied here and not looked at: the header in front says what is left to be done
//! to one (a checksum, cutting a long one), and whoever can do it cheaply does.
//!
//! What this is not: a switch or a filter. Where the tap leads is the caller's to decide.
//!
//! Hostile: the queues, every header and every length. Bounds: a frame's length, the pieces that it
//! lies in, frames in one go. A frame that is not right is dropped, as a network does.

mod features;
mod header;
mod pace;
mod receive;
mod sys;
mod transmit;

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::device::{Activation, BrokenQueue, DeviceType, VirtioDevice};
use crate::handover::{self, Giver, Order, Taker};
use crate::poll::{Interest, Poller, Readiness, Token};
use crate::sys as events;
use receive::Receiver;
use transmit::Transmitter;

/// Receive, then transmit. A frame of 64 KiB that was not cut takes 43 of the guest's buffers, and
/// each buffer that waits is memory of the guest's.
const QUEUE_SIZES: [u16; 2] = [256, 256];
/// Frames in one go, before the other direction and the other devices get their turn.
const MAX_FRAMES_IN_ONE_GO: usize = 64;
const LINK_UP: u16 = 1;

const ORDERS: u32 = 0;
const RECEIVE: u32 = 1;
const TRANSMIT: u32 = 2;
const TAP: u32 = 3;

/// What the driver is told of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// The Ethernet address.
    pub mac: [u8; 6],
    /// How long a packet may be.
    pub mtu: u16,
    /// Whether the tap's kernel takes and gives UDP that is not cut (Linux 6.2 and later).
    pub uncut_udp: bool,
}

impl NetConfig {
    /// The configuration space (section 5.1.4).
    fn encode(self) -> [u8; 12] {
        let mut space = [0; 12];
        space[..6].copy_from_slice(&self.mac);
        space[6..8].copy_from_slice(&LINK_UP.to_le_bytes());
        space[8..10].copy_from_slice(&1_u16.to_le_bytes());
        space[10..].copy_from_slice(&self.mtu.to_le_bytes());
        space
    }
}

/// The transport's half.
#[derive(Debug)]
pub struct NetDevice {
    worker: Giver,
    offered: u64,
    space: [u8; 12],
}

/// The half of the thread that serves.
#[derive(Debug)]
pub struct Net {
    orders: Taker,
    poller: Arc<Poller>,
    owner: u32,
    tap: OwnedFd,
    /// What the tap was told of its driver; a new one is told nothing.
    offload: u32,
    mtu: u16,
    active: Option<Active>,
}

/// The device in service.
#[derive(Debug)]
struct Active {
    activation: Box<Activation>,
    receiver: Receiver,
    transmitter: Transmitter,
}

/// A network device on a tap, which must not block and have headers of 12 bytes. Its worker is
/// served by `poller` under the name `owner`.
///
/// # Errors
/// When the system has no descriptor left.
pub fn open(
    poller: Arc<Poller>,
    owner: u32,
    tap: OwnedFd,
    config: NetConfig,
) -> io::Result<(NetDevice, Net)> {
    let (giver, taker) = handover::pair()?;
    poller.add(events::borrow(taker.event()), Token { owner, index: ORDERS }, Interest::READ)?;
    poller.add(&tap, Token { owner, index: TAP }, Interest::READ_EDGE)?;
    let offered = features::offered(config.uncut_udp);
    let device = NetDevice { worker: giver, offered, space: config.encode() };
    let (offload, mtu) = (0, config.mtu);
    Ok((device, Net { orders: taker, poller, owner, tap, offload, mtu, active: None }))
}

impl VirtioDevice for NetDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.space
    }

    fn activate(&mut self, activation: Activation) -> bool {
        self.worker.activate(activation)
    }

    fn reset(&mut self) {
        self.worker.reset();
    }
}

impl Net {
    /// Deals with an event of its own.
    pub fn handle(&mut self, token: Token, _readiness: Readiness) {
        match token.index {
            ORDERS => {
                while let Some(order) = self.orders.take() {
                    self.obey(order);
                }
            }
            TAP => {
                if let Some(active) = &mut self.active {
                    active.receiver.tap_is_readable();
                }
            }
            _ => {}
        }
        let served = match token.index {
            TRANSMIT => self.transmit(),
            _ => self.receive(),
        };
        if served.is_err() {
            self.give_up();
        }
    }

    /// Lets go of the tap and of everything of the guest's.
    pub fn close(mut self) {
        self.release();
        // Both were registered when it was opened.
        let _ = self.poller.remove(&self.tap);
        let _ = self.poller.remove(events::borrow(self.orders.event()));
    }

    fn give_up(&mut self) {
        if let Some(active) = self.release() {
            active.activation.interrupt.needs_reset();
        }
    }

    fn obey(&mut self, order: Order) {
        self.release();
        match order {
            Order::Activate(activation) => self.activate(activation),
            Order::Reset(acknowledgement) => drop(acknowledgement),
        }
    }

    fn activate(&mut self, activation: Box<Activation>) {
        let prepared = self.prepare(&activation);
        let receiver = Receiver::new(&activation, self.mtu);
        let transmitter = Transmitter::new(&activation);
        self.active = Some(Active { activation, receiver, transmitter });
        if prepared.is_err() {
            self.give_up();
        }
    }

    fn prepare(&mut self, activation: &Activation) -> io::Result<()> {
        for (queue, index) in activation.queues.iter().zip([RECEIVE, TRANSMIT]) {
            let token = Token { owner: self.owner, index };
            self.poller.add(events::borrow(queue.notification()), token, Interest::READ)?;
        }
        self.tell_tap(features::of_tap(activation.features))
    }

    /// A tap that has been told something is told again by the next driver only if it differs.
    fn tell_tap(&mut self, offload: u32) -> io::Result<()> {
        if offload != self.offload {
            sys::set_offload(self.tap.as_fd(), offload)?;
            self.offload = offload;
        }
        Ok(())
    }

    fn release(&mut self) -> Option<Active> {
        let active = self.active.take()?;
        for queue in &active.activation.queues {
            // Registered when it was activated.
            let _ = self.poller.remove(events::borrow(queue.notification()));
        }
        Some(active)
    }

    fn receive(&mut self) -> Result<(), BrokenQueue> {
        let Some(Active { activation, receiver, .. }) = &mut self.active else { return Ok(()) };
        let Activation { memory, queues, interrupt, .. } = &mut **activation;
        let Some(queue) = queues.first_mut() else { return Ok(()) };
        queue.take_notification();
        if receiver.serve(queue, memory, self.tap.as_fd())? {
            interrupt.used_buffer();
        }
        Ok(())
    }

    fn transmit(&mut self) -> Result<(), BrokenQueue> {
        let Some(Active { activation, transmitter, .. }) = &mut self.active else { return Ok(()) };
        let Activation { memory, queues, interrupt, .. } = &mut **activation;
        let Some(queue) = queues.get_mut(1) else { return Ok(()) };
        queue.take_notification();
        if transmitter.serve(queue, memory, self.tap.as_fd())? {
            interrupt.used_buffer();
        }
        Ok(())
    }
}
