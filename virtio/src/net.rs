//! The network device (virtio 1.2, section 5.1): frames between a guest and a tap of the host's.
//!
//! ```text
//!  driver's receive queue ◀── pieces of guest memory ◀── readv ── tap
//!  driver's transmit queue ── header checked ──▶ writev ─────────▶ tap
//! ```
//!
//! A tap may have several queues, and the device a pair of queues for each of them: the guest's
//! processors send side by side then. The driver says how many pairs it uses (the control queue);
//! until then, and where it uses fewer, a pair in use serves several of the tap's:
//!
//! ```text
//!  the tap's queue 0 ◀──▶ pair 0     in use: 2 of 3
//!  the tap's queue 1 ◀──▶ pair 1
//!  the tap's queue 2  ──▶ pair 0
//! ```
//! So the host's kernel need not be told, and no frame waits where nobody looks.
//!
//! Frames are not copied here and not looked at: the header in front says what is left to be done
//! to one (a checksum, cutting a long one), and whoever can do it cheaply does.
//!
//! What this is not: a switch or a filter. Where the tap leads is the caller's to decide.
//!
//! Hostile: the queues, every header and every length. Bounds: a frame's length, the pieces that it
//! lies in, frames in one go. A frame that is not right is dropped, as a network does.

mod control;
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

use crate::device::{Activation, DeviceType, VirtioDevice};
use crate::handover::{self, Giver, Order, Taker};
use crate::poll::{Interest, Poller, Readiness, Token};
use crate::queue::BrokenQueue;
use crate::sys as events;
use cofferdam_protocol::bounds::MAX_QUEUE_PAIRS;
use receive::{Receiver, Wanted};
use transmit::Transmitter;

/// One for receiving or sending. A frame of 64 KiB that was not cut takes 43 of the guest's
/// buffers, and each buffer that waits is memory of the guest's.
const QUEUE_SIZE: u16 = 256;
/// A driver asks for one thing after the other, in up to three pieces.
const CONTROL_QUEUE_SIZE: u16 = 16;
/// Frames in one go, before the other direction and the other devices get their turn.
const MAX_FRAMES_IN_ONE_GO: usize = 64;
const LINK_UP: u16 = 1;

/// What a device has to deal with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// The transport has an order.
    Orders,
    /// This queue of the tap's has frames.
    Tap(usize),
    /// The driver notified this queue of the device's.
    Queue(usize),
}

impl Event {
    const FIRST_TAP: u32 = 1;
    const FIRST_QUEUE: u32 = Self::FIRST_TAP + MAX_QUEUE_PAIRS as u32;

    /// Both are far fewer than 2^32.
    const fn index(self) -> u32 {
        match self {
            Self::Orders => 0,
            Self::Tap(number) => Self::FIRST_TAP + number as u32,
            Self::Queue(number) => Self::FIRST_QUEUE + number as u32,
        }
    }

    const fn of(index: u32) -> Self {
        match index {
            0 => Self::Orders,
            Self::FIRST_TAP..Self::FIRST_QUEUE => Self::Tap((index - Self::FIRST_TAP) as usize),
            _ => Self::Queue((index - Self::FIRST_QUEUE) as usize),
        }
    }
}

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
    fn encode(self, pairs: u16) -> [u8; 12] {
        let mut space = [0; 12];
        space[..6].copy_from_slice(&self.mac);
        space[6..8].copy_from_slice(&LINK_UP.to_le_bytes());
        space[8..10].copy_from_slice(&pairs.to_le_bytes());
        space[10..].copy_from_slice(&self.mtu.to_le_bytes());
        space
    }
}

/// The transport's half.
#[derive(Debug)]
pub struct NetDevice {
    worker: Giver,
    offered: u64,
    queue_sizes: Vec<u16>,
    space: [u8; 12],
}

/// The half of the thread that serves.
#[derive(Debug)]
pub struct Net {
    orders: Taker,
    poller: Arc<Poller>,
    owner: u32,
    taps: Vec<TapQueue>,
    /// What the tap was told of its driver; a new one is told nothing.
    offload: u32,
    mtu: u16,
    active: Option<Active>,
}

/// One of a tap's queues.
#[derive(Debug)]
struct TapQueue {
    descriptor: OwnedFd,
    /// It may have frames.
    readable: bool,
}

/// The device in service.
#[derive(Debug)]
struct Active {
    activation: Box<Activation>,
    pairs: Vec<Pair>,
    /// How many of them the driver uses, from the first on.
    in_use: usize,
    /// Which queue is the control queue.
    control: Option<usize>,
}

/// A pair of queues.
#[derive(Debug)]
struct Pair {
    receiver: Receiver,
    transmitter: Transmitter,
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The tap.
    #[error("A network device has a tap with 1 to {MAX_QUEUE_PAIRS} queues, not {0}")]
    Queues(usize),
    /// The system.
    #[error("The network device's events cannot be waited for")]
    Events(#[from] io::Error),
}

/// A network device on the queues of a tap, which must not block and have headers of 12 bytes. Its
/// worker is served by `poller` under the name `owner`.
///
/// # Errors
/// When there are no queues or too many, or the system has no descriptor left.
pub fn open(
    poller: Arc<Poller>,
    owner: u32,
    tap: Vec<OwnedFd>,
    config: NetConfig,
) -> Result<(NetDevice, Net), OpenError> {
    let pairs = tap.len();
    if !(1..=MAX_QUEUE_PAIRS).contains(&pairs) {
        return Err(OpenError::Queues(pairs));
    }
    let (giver, taker) = handover::pair()?;
    let token = |event: Event| Token { owner, index: event.index() };
    poller.add(events::borrow(taker.event()), token(Event::Orders), Interest::READ)?;
    for (number, descriptor) in tap.iter().enumerate() {
        poller.add(descriptor, token(Event::Tap(number)), Interest::READ_EDGE)?;
    }
    let device = NetDevice {
        worker: giver,
        offered: features::offered(config.uncut_udp, pairs),
        queue_sizes: queue_sizes(pairs),
        // At most MAX_QUEUE_PAIRS.
        space: config.encode(pairs as u16),
    };
    let taps = tap.into_iter().map(|descriptor| TapQueue { descriptor, readable: true });
    let (taps, offload, mtu) = (taps.collect(), 0, config.mtu);
    Ok((device, Net { orders: taker, poller, owner, taps, offload, mtu, active: None }))
}

/// Receive, then transmit, for each pair; where there is a choice of pairs, control (section
/// 5.1.2).
fn queue_sizes(pairs: usize) -> Vec<u16> {
    let control = (pairs > 1).then_some(CONTROL_QUEUE_SIZE);
    std::iter::repeat_n(QUEUE_SIZE, 2 * pairs).chain(control).collect()
}

impl VirtioDevice for NetDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
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
    /// Deals with an event of one of its own.
    pub fn handle(&mut self, token: Token, _readiness: Readiness) {
        let served = match Event::of(token.index) {
            Event::Orders => self.obey(),
            Event::Tap(number) => self.tap_is_readable(number),
            Event::Queue(number) => self.serve(number),
        };
        if served.is_err() {
            self.give_up();
        }
    }

    /// Lets go of the tap and of everything of the guest's.
    pub fn close(mut self) {
        self.release();
        // All were registered when it was opened.
        for tap in &self.taps {
            let _ = self.poller.remove(&tap.descriptor);
        }
        let _ = self.poller.remove(events::borrow(self.orders.event()));
    }

    fn give_up(&mut self) {
        if let Some(active) = self.release() {
            active.activation.interrupt.needs_reset();
        }
    }

    fn obey(&mut self) -> Result<(), BrokenQueue> {
        while let Some(order) = self.orders.take() {
            self.release();
            match order {
                Order::Activate(activation) => self.activate(activation),
                Order::Reset(acknowledgement) => drop(acknowledgement),
            }
        }
        self.receive_all()
    }

    fn activate(&mut self, activation: Box<Activation>) {
        let prepared = self.prepare(&activation);
        let pair = |_| Pair {
            receiver: Receiver::new(&activation, self.mtu),
            transmitter: Transmitter::new(&activation),
        };
        let control = features::control_queue(activation.features, self.taps.len());
        let pairs = (0..self.taps.len()).map(pair).collect();
        self.active = Some(Active { activation, pairs, in_use: 1, control });
        if prepared.is_err() {
            self.give_up();
        }
    }

    fn prepare(&mut self, activation: &Activation) -> io::Result<()> {
        for (number, queue) in activation.queues.iter().enumerate() {
            let token = Token { owner: self.owner, index: Event::Queue(number).index() };
            // Told once for each, it need not be read: nobody asks how many there were.
            self.poller.add(events::borrow(queue.notification()), token, Interest::READ_EDGE)?;
        }
        // They may have had some before.
        self.taps.iter_mut().for_each(|tap| tap.readable = true);
        self.tell_tap(features::of_tap(activation.features))
    }

    /// A tap that has been told something is told again by the next driver only if it differs. All
    /// of its queues know what one is told.
    fn tell_tap(&mut self, offload: u32) -> io::Result<()> {
        if let Some(tap) = self.taps.first().filter(|_| offload != self.offload) {
            sys::set_offload(tap.descriptor.as_fd(), offload)?;
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

    fn tap_is_readable(&mut self, number: usize) -> Result<(), BrokenQueue> {
        if let Some(tap) = self.taps.get_mut(number) {
            tap.readable = true;
        }
        let in_use = self.active.as_ref().map_or(1, |active| active.in_use);
        self.receive(number % in_use)
    }

    /// Looks into a queue that the driver notified.
    fn serve(&mut self, number: usize) -> Result<(), BrokenQueue> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let Some(queue) = active.activation.queues.get_mut(number) else { return Ok(()) };
        queue.count_notification();
        match number {
            control if active.control == Some(control) => self.obey_driver(control),
            receive if receive.is_multiple_of(2) => self.receive(receive / 2),
            transmit => self.transmit(transmit / 2),
        }
    }

    fn receive_all(&mut self) -> Result<(), BrokenQueue> {
        let in_use = self.active.as_ref().map_or(0, |active| active.in_use);
        (0..in_use).try_for_each(|pair| self.receive(pair))
    }

    /// Receives what a pair in use is there for.
    fn receive(&mut self, pair: usize) -> Result<(), BrokenQueue> {
        let Some(active) = self.active.as_mut().filter(|active| pair < active.in_use) else {
            return Ok(());
        };
        let Activation { memory, queues, interrupt, .. } = &mut *active.activation;
        let Some(queue) = queues.get_mut(2 * pair) else { return Ok(()) };
        let Some(Pair { receiver, .. }) = active.pairs.get_mut(pair) else { return Ok(()) };
        for tap in self.taps.iter_mut().skip(pair).step_by(active.in_use) {
            match receiver.serve(queue, memory, tap)? {
                Wanted::Nothing => {}
                Wanted::AtOnce => interrupt.used_buffer_at_once(),
                Wanted::Interrupt => interrupt.used_buffer(),
            }
        }
        Ok(())
    }

    fn transmit(&mut self, pair: usize) -> Result<(), BrokenQueue> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let Activation { memory, queues, interrupt, .. } = &mut *active.activation;
        let Some(queue) = queues.get_mut(2 * pair + 1) else { return Ok(()) };
        let Some(Pair { transmitter, .. }) = active.pairs.get_mut(pair) else { return Ok(()) };
        let Some(tap) = self.taps.get(pair) else { return Ok(()) };
        if transmitter.serve(queue, memory, tap.descriptor.as_fd())? {
            interrupt.used_buffer();
        }
        Ok(())
    }

    /// Does what the driver asks for by the control queue.
    fn obey_driver(&mut self, control: usize) -> Result<(), BrokenQueue> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let Activation { memory, queues, interrupt, .. } = &mut *active.activation;
        let Some(queue) = queues.get_mut(control) else { return Ok(()) };
        let answered = control::serve(queue, memory, active.pairs.len(), &mut active.in_use)?;
        if answered {
            interrupt.used_buffer();
        }
        // Others are there for a queue of the tap's now.
        self.receive_all()
    }
}
