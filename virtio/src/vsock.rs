//! The socket device (virtio 1.2, section 5.10): connections between host descriptors and ports
//! in the guest.
//!
//! The host makes the connections. The guest makes exactly one, the lifeline, to
//! [`LIFELINE_PORT`](cofferdam_protocol::bounds::LIFELINE_PORT); whatever else it asks for is
//! refused. So a guest has nothing on the host to knock at.
//!
//! ```text
//!  host descriptor ◀──▶ HostEnd ◀──▶ Connection ◀──▶ Muxer ◀──▶ Link ◀──▶ guest's queues
//!                     never blocks   states, credit  turns     packets
//! ```
//!
//! Half-close, credit and back-pressure are per direction and per connection: see the submodules.
//! A slow reader on the host stops being given credit and nothing else; a slow reader in the guest
//! stops its descriptor being read and nothing else.
//!
//! What this is not: it does not know what the bytes mean, the sixteen-byte frames of the lifeline
//! excepted, whose boundaries it knows.
//!
//! Hostile: the queues and every packet in them. Bounds: connections, bytes kept for each, resets
//! that wait, packets in one go. The descriptors are the operator's; that they are slow, full,
//! closed or always ready is normal.

mod connection;
mod endpoint;
mod link;
mod muxer;
mod packet;
mod pending;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use cofferdam_protocol::bounds::GUEST_CID;
use cofferdam_protocol::lifeline::LIFELINE_FRAME_BYTES;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::device::{Activation, DeviceType, VirtioDevice};
use crate::handover::{self, Giver, Order, Taker};
use crate::poll::{Interest, Poller, Readiness, Token};
use crate::queue::BrokenQueue;
use crate::saved::{QueuePosition, VsockState};
use crate::sys;
use link::{Link, RECEIVE_QUEUE, TRANSMIT_QUEUE};
use muxer::Muxer;

/// Receive, transmit, event. A Linux guest keeps its receive queue full of 4 KiB buffers, so its
/// size bounds how much can be on its way: half a MiB.
const QUEUE_SIZES: [u16; 3] = [128, 128, 16];
/// Packets taken before the thread's other work gets its turn.
const MAX_PACKETS_IN_ONE_GO: usize = 128;

// Indices below the ports of connections.
const ORDERS: u32 = 0;
const RECEIVE: u32 = 1;
const TRANSMIT: u32 = 2;
const AGAIN: u32 = 3;

/// What a host-initiated connection is joined to.
#[derive(Debug)]
pub enum Endpoint {
    /// A connected stream socket: both ways, each with its own end.
    Stream(OwnedFd),
    /// A TCP connection that is reset when it is closed (`SO_LINGER` of zero). As a stream; only where the
    /// guest has ended its output before is it closed otherwise. Its peer does not take for all there is
    /// what a guest left that went without a word.
    Tcp(OwnedFd),
    /// Host to guest only; what the guest sends is thrown away.
    Source(OwnedFd),
    /// Guest to host only.
    Sink(OwnedFd),
    /// Both ways, and one end for both.
    Terminal(OwnedFd),
}

/// A connection that the host made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u32);

#[cfg(any(test, feature = "fuzzing"))]
impl ConnectionId {
    /// The host's port.
    pub(crate) fn port(self) -> u32 {
        self.0
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VsockEvent {
    /// The guest's kernel drives the device.
    DriverReady,
    /// The guest took the connection.
    Connected(ConnectionId),
    /// The guest did not take it; it is forgotten.
    Refused(ConnectionId),
    /// A connection that was taken is over and forgotten, its output written.
    Closed(ConnectionId),
    /// The guest sent a frame on its lifeline.
    LifelineFrame([u8; LIFELINE_FRAME_BYTES]),
    /// The guest closed its lifeline, after all frames before this.
    LifelineClosed,
}

/// Why a connection was not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The guest's kernel does not drive the device.
    #[error("The guest is not there")]
    NotReady,
    /// All places are taken.
    #[error("Too many connections")]
    TooMany,
    /// The prologue is over its bound.
    #[error("The prologue is too long")]
    LongPrologue,
}

/// The transport's half.
#[derive(Debug)]
pub struct VsockDevice {
    worker: Giver,
    config: [u8; 8],
}

/// The devices thread's half.
pub struct Vsock {
    orders: Taker,
    poller: Arc<Poller>,
    owner: u32,
    again: EventFd,
    link: Option<Link>,
    muxer: Muxer,
    /// The driver's connections are those of a machine that is no more.
    orphaned: bool,
}

impl std::fmt::Debug for Vsock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vsock").field("active", &self.link.is_some()).finish_non_exhaustive()
    }
}

/// A socket device whose worker, and all its host descriptors, are served by `poller` under the
/// name `owner`.
///
/// # Errors
/// When the system has no descriptor left.
pub fn open(poller: Arc<Poller>, owner: u32) -> io::Result<(VsockDevice, Vsock)> {
    let (giver, orders) = handover::pair()?;
    let again = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
    for (index, event) in [(ORDERS, orders.event()), (AGAIN, &again)] {
        poller.add(sys::borrow(event), Token { owner, index }, Interest::READ)?;
    }
    let muxer = Muxer::new(Arc::clone(&poller), owner);
    let device = VsockDevice { worker: giver, config: GUEST_CID.to_le_bytes() };
    Ok((device, Vsock { orders, poller, owner, again, link: None, muxer, orphaned: false }))
}

impl VirtioDevice for VsockDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, activation: Activation) -> bool {
        self.worker.activate(activation)
    }

    fn reset(&mut self) {
        self.worker.reset();
    }
}

impl Vsock {
    /// Asks the guest for a connection to one of its ports. `prologue` is sent before what
    /// `endpoint` gives.
    ///
    /// # Errors
    /// When there is no guest to ask, or no place; the descriptor is closed then.
    pub fn connect(
        &mut self,
        guest_port: u32,
        endpoint: Endpoint,
        prologue: &[u8],
    ) -> Result<ConnectionId, ConnectError> {
        if self.link.is_none() {
            return Err(ConnectError::NotReady);
        }
        let id = self.muxer.connect(guest_port, endpoint, prologue)?;
        self.serve();
        Ok(id)
    }

    /// Ends a connection at once, with what is on its way.
    pub fn close(&mut self, id: ConnectionId) {
        self.muxer.close(id);
        self.serve();
    }

    /// Whether everything that the guest has sent on a connection is written to its descriptor, or
    /// never can be. True for a connection that is over.
    #[must_use]
    pub fn drained(&self, id: ConnectionId) -> bool {
        self.muxer.drained(id)
    }

    /// Stops or goes on reading what the hosts' descriptors give, for all connections.
    pub fn hold(&mut self, held: bool) {
        self.muxer.hold(held);
        self.serve();
    }

    /// Asks the guest how much of what it was sent its programs have taken; [`Self::settled`]
    /// knows when it has answered.
    pub fn ask(&mut self) {
        self.muxer.ask();
        self.serve();
    }

    /// Whether no byte of a stream is between its two ends: what the guest sent is written, and
    /// what it was sent is taken.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.muxer.settled()
    }

    /// Says something to the agent, on its lifeline. False when there is none.
    pub fn tell(&mut self, bytes: &[u8]) -> bool {
        let told = self.muxer.tell(bytes);
        self.serve();
        told
    }

    /// What is written down of the device.
    #[must_use]
    pub fn save(&self) -> VsockState {
        VsockState { next_port: self.muxer.next_port() }
    }

    /// How far its queues are served, when it is in service.
    #[must_use]
    pub fn positions(&self) -> Vec<QueuePosition> {
        self.link.as_ref().map(Link::positions).unwrap_or_default()
    }

    /// Takes the place of a device that was saved, before it is activated: its driver will be told
    /// that the connections it knows are over.
    pub fn restore(&mut self, state: VsockState) {
        self.orphaned = true;
        self.muxer.continue_with(state.next_port);
    }

    /// What happened since; to be asked until it gives nothing after each call of the others.
    pub fn next_event(&mut self) -> Option<VsockEvent> {
        let event = self.muxer.next_event();
        if event.is_none() && self.muxer.has_work() {
            // The lifeline's frames were taken, and the guest may send more of them.
            self.serve();
        }
        event
    }

    /// When [`Self::expire`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.muxer.deadline()
    }

    /// Gives up what the guest has not answered in time.
    pub fn expire(&mut self, now: Instant) {
        self.muxer.expire(now);
        self.serve();
    }

    /// Deals with an event of its own.
    pub fn handle(&mut self, token: Token, readiness: Readiness) {
        match token.index {
            ORDERS => {
                while let Some(order) = self.orders.take() {
                    self.obey(order);
                }
            }
            RECEIVE => {
                if let Some(link) = &mut self.link {
                    link.fed();
                }
            }
            TRANSMIT => self.receive(),
            AGAIN => {
                // Nothing to read: woken for something else.
                let _ = self.again.read();
            }
            port => self.muxer.note(port, readiness),
        }
        self.serve();
    }

    fn obey(&mut self, order: Order) {
        self.release();
        match order {
            Order::Activate(activation) => {
                let Some(mut link) = Link::new(activation) else { return };
                if std::mem::take(&mut self.orphaned) {
                    announce_reset(&mut link);
                }
                if self.register(&link).is_ok() {
                    self.link = Some(link);
                    self.muxer.announce(VsockEvent::DriverReady);
                } else {
                    link.fail();
                }
            }
            Order::Reset(acknowledgement) => drop(acknowledgement),
        }
    }

    fn register(&self, link: &Link) -> io::Result<()> {
        for (index, queue) in [(RECEIVE, RECEIVE_QUEUE), (TRANSMIT, TRANSMIT_QUEUE)] {
            let event = sys::borrow(link.queue(queue).notification());
            self.poller.add(event, Token { owner: self.owner, index }, Interest::READ)?;
        }
        Ok(())
    }

    fn release(&mut self) {
        let Some(link) = self.link.take() else { return };
        for queue in [RECEIVE_QUEUE, TRANSMIT_QUEUE] {
            // Registered when it was activated.
            let _ = self.poller.remove(sys::borrow(link.queue(queue).notification()));
        }
        self.muxer.clear();
    }

    /// Takes what the guest sent.
    fn receive(&mut self) {
        let Some(link) = &mut self.link else { return };
        link.queue(TRANSMIT_QUEUE).take_notification();
        if let Err(error) = receive_all(link, &mut self.muxer) {
            self.break_off(&error);
        }
    }

    /// Sends what is to be sent, and tells the driver of all that was done.
    fn serve(&mut self) {
        let Some(link) = &mut self.link else { return };
        let served = self.muxer.serve(link);
        match served.and_then(|more| link.interrupt().map(|()| more)) {
            // A full counter is a pending event.
            Ok(true) => drop(self.again.write(1)),
            Ok(false) => {}
            Err(error) => self.break_off(&error),
        }
    }

    fn break_off(&mut self, error: &BrokenQueue) {
        tracing::warn!(%error, "the vsock device stops until the driver resets it");
        if let Some(link) = &self.link {
            link.fail();
        }
        self.release();
    }
}

/// A driver that has no buffer for it learns of each connection's end when it uses it.
fn announce_reset(link: &mut Link) {
    match link.announce_reset() {
        Ok(true) => {}
        Ok(false) => tracing::warn!("the guest takes no word that its connections are over"),
        Err(error) => tracing::warn!(%error, "the guest's event queue is broken"),
    }
}

fn receive_all(link: &mut Link, muxer: &mut Muxer) -> Result<(), BrokenQueue> {
    for _ in 0..MAX_PACKETS_IN_ONE_GO {
        if !link.receive(|header, data| muxer.receive(&header, data))? {
            return Ok(());
        }
    }
    link.queue(TRANSMIT_QUEUE).call_again();
    Ok(())
}

#[cfg(test)]
mod tests;
