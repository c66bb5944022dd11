//! All connections of one guest, and whose turn it is.
//!
//! Fair: each connection with something to send sends one packet and goes to the end of the line.
//!
//! Hostile: whom a packet claims to be from and for, and how many connections it would make. The
//! guest makes one connection in its life, the lifeline; every other it asks for is refused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_protocol::bounds::{GUEST_CID, HOST_CID, LIFELINE_PORT};
use cofferdam_protocol::lifeline::LIFELINE_FRAME_BYTES;

use super::connection::{Connection, Phase, Reaction};
use super::endpoint::HostEnd;
use super::link::{Link, Ports, Sent, header};
use super::packet::{Header, Operation, TYPE_STREAM};
use super::{ConnectError, ConnectionId, Endpoint, VsockEvent};
use crate::poll::{Poller, Readiness, Token};
use crate::queue::BrokenQueue;
use crate::slices::Slices;

/// Each process has at most four streams, and each connection costs a descriptor and up to a
/// window of memory: 64 MiB in all if the host reads none of them.
pub(super) const MAX_CONNECTIONS: usize = 512;
/// A stream header has 16 bytes; a prologue is our own, and small.
const MAX_PROLOGUE_BYTES: usize = 64;
/// Frames of the lifeline that the guest may have sent and we not looked at: 256.
const LIFELINE_WINDOW_BYTES: u32 = 4096;
/// Refusals that wait for a buffer of the guest's. A guest that asks for more than these and gives
/// no buffers would have us remember them all; it misses an answer instead.
const MAX_WAITING_RESETS: usize = 256;
/// Packets sent before the thread's other work gets its turn.
const MAX_PACKETS_IN_ONE_GO: usize = 64;
/// An agent that listens answers at once; one on a machine that swaps takes longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A Linux guest gives a closing peer eight seconds; ours has nothing left to lose.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Ports given to connections that the host makes, so that none is used again soon: a guest that
/// still remembers an old connection does not take a new one for it.
const FIRST_PORT: u32 = 1 << 30;

/// Where the guest's one connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifeline {
    Expected,
    Open,
    /// Ended; the caller does not know yet.
    Ended,
    Over,
}

pub(super) struct Muxer {
    poller: Arc<Poller>,
    owner: u32,
    connections: BTreeMap<u32, Connection>,
    ready: VecDeque<u32>,
    deadlines: BTreeSet<(Instant, u32)>,
    resets: VecDeque<Ports>,
    events: VecDeque<VsockEvent>,
    lifeline: Lifeline,
    next_port: u32,
    held: bool,
}

impl Muxer {
    pub(super) fn new(poller: Arc<Poller>, owner: u32) -> Self {
        Self {
            poller,
            owner,
            connections: BTreeMap::new(),
            ready: VecDeque::new(),
            deadlines: BTreeSet::new(),
            resets: VecDeque::new(),
            events: VecDeque::new(),
            lifeline: Lifeline::Expected,
            next_port: FIRST_PORT,
            held: false,
        }
    }

    pub(super) fn connect(
        &mut self,
        guest_port: u32,
        endpoint: Endpoint,
        prologue: &[u8],
    ) -> Result<ConnectionId, ConnectError> {
        if self.connections.len() >= MAX_CONNECTIONS {
            return Err(ConnectError::TooMany);
        }
        if prologue.len() > MAX_PROLOGUE_BYTES {
            return Err(ConnectError::LongPrologue);
        }
        let host = self.free_port();
        let end = HostEnd::new(endpoint, Token { owner: self.owner, index: host });
        let ports = Ports { host, guest: guest_port };
        let mut connection = Connection::requested(ports, end, prologue);
        connection.hold(self.held);
        connection.deadline = Some(Instant::now() + CONNECT_TIMEOUT);
        self.move_deadline(host, None, connection.deadline);
        self.connections.insert(host, connection);
        self.enqueue(host);
        Ok(ConnectionId(host))
    }

    fn free_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.connections.contains_key(&port) {
                return port;
            }
        }
    }

    /// Stops or goes on reading from the hosts' descriptors.
    pub(super) fn hold(&mut self, held: bool) {
        self.held = held;
        for port in self.ports() {
            self.connections.entry(port).and_modify(|connection| connection.hold(held));
            self.enqueue(port);
        }
    }

    /// Asks the guest, for each connection, how much its programs have taken.
    pub(super) fn ask(&mut self) {
        for port in self.ports() {
            self.connections.entry(port).and_modify(Connection::ask);
            self.enqueue(port);
        }
    }

    /// Whether nothing of any stream is between its two ends.
    pub(super) fn settled(&self) -> bool {
        self.connections.values().all(Connection::settled)
    }

    /// Sends bytes on the lifeline. False when there is none.
    pub(super) fn tell(&mut self, bytes: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(&LIFELINE_PORT) else { return false };
        connection.say(bytes);
        self.enqueue(LIFELINE_PORT);
        self.lifeline == Lifeline::Open
    }

    /// The port of the next connection.
    pub(super) fn next_port(&self) -> u32 {
        self.next_port
    }

    /// Goes on with the ports of a machine that was saved.
    pub(super) fn continue_with(&mut self, next_port: u32) {
        self.next_port = next_port.max(FIRST_PORT);
    }

    fn ports(&self) -> Vec<u32> {
        self.connections.keys().copied().collect()
    }

    pub(super) fn drained(&self, id: ConnectionId) -> bool {
        self.connections.get(&id.0).is_none_or(Connection::drained)
    }

    pub(super) fn close(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(&id.0) {
            if connection.phase() != Phase::Gone {
                let ports = connection.ports();
                self.reset_later(ports);
            }
            self.remove(id.0);
        }
    }

    /// The next thing that the caller must know.
    pub(super) fn next_event(&mut self) -> Option<VsockEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if let Some(frame) = self.lifeline_frame() {
            return Some(VsockEvent::LifelineFrame(frame));
        }
        if self.lifeline == Lifeline::Ended {
            self.connections.remove(&LIFELINE_PORT);
            self.lifeline = Lifeline::Over;
            return Some(VsockEvent::LifelineClosed);
        }
        None
    }

    fn lifeline_frame(&mut self) -> Option<[u8; LIFELINE_FRAME_BYTES]> {
        let frame = self.connections.get_mut(&LIFELINE_PORT)?.take_bytes()?;
        self.enqueue(LIFELINE_PORT);
        Some(frame)
    }

    pub(super) fn announce(&mut self, event: VsockEvent) {
        self.events.push_back(event);
    }

    /// Whether something waits that [`Self::serve`] would send.
    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty() || !self.resets.is_empty()
    }

    /// A host descriptor is ready.
    pub(super) fn note(&mut self, port: u32, readiness: Readiness) {
        // An event of a descriptor that was let go in the same round.
        let Some(connection) = self.connections.get_mut(&port) else { return };
        connection.note(readiness, &self.poller);
        self.settle(port);
    }

    /// The guest sent a packet.
    pub(super) fn receive(&mut self, header: &Header, data: Slices<'_>) {
        if header.source_cid != GUEST_CID || header.destination_cid != HOST_CID {
            return;
        }
        let ports = Ports { host: header.destination_port, guest: header.source_port };
        let known = self.connections.get_mut(&ports.host);
        let known = known.filter(|known| known.ports() == ports && known.phase() != Phase::Gone);
        match known {
            Some(connection) if header.socket_type == TYPE_STREAM => {
                let before = connection.deadline;
                let reaction = connection.receive(header, data, &self.poller);
                let after = connection.deadline;
                self.move_deadline(ports.host, before, after);
                self.react(ports, reaction);
            }
            _ => self.receive_stray(header, ports),
        }
    }

    fn receive_stray(&mut self, header: &Header, ports: Ports) {
        let lifeline = header.operation == Operation::Request
            && header.socket_type == TYPE_STREAM
            && ports.host == LIFELINE_PORT
            && self.lifeline == Lifeline::Expected;
        if lifeline {
            let connection = Connection::accepted(header, ports, LIFELINE_WINDOW_BYTES);
            self.lifeline = Lifeline::Open;
            self.connections.insert(LIFELINE_PORT, connection);
            self.enqueue(LIFELINE_PORT);
        } else if header.operation != Operation::Reset {
            self.reset_later(ports);
        }
    }

    fn react(&mut self, ports: Ports, reaction: Reaction) {
        match reaction {
            Reaction::GoesOn | Reaction::Ended => {}
            Reaction::Connected => self.announce(VsockEvent::Connected(ConnectionId(ports.host))),
            Reaction::EndedWantsReset => self.reset_later(ports),
            Reaction::Violated => {
                self.reset_later(ports);
                self.remove(ports.host);
            }
        }
        self.settle(ports.host);
    }

    /// After anything happened to a connection: it may be over, or have something to send.
    fn settle(&mut self, port: u32) {
        let Some(connection) = self.connections.get_mut(&port) else { return };
        let before = connection.deadline;
        connection.close_if_useless(|| Instant::now() + CLOSE_TIMEOUT);
        let after = connection.deadline;
        self.move_deadline(port, before, after);
        let Some(connection) = self.connections.get_mut(&port) else { return };
        // What the lifeline still holds is given out by `next_event`.
        if port == LIFELINE_PORT && connection.phase() == Phase::Gone {
            self.lifeline = Lifeline::Ended;
        } else if connection.finished() {
            self.remove(port);
        } else {
            self.enqueue(port);
        }
    }

    fn move_deadline(&mut self, port: u32, before: Option<Instant>, after: Option<Instant>) {
        if before != after {
            before.map(|deadline| self.deadlines.remove(&(deadline, port)));
            after.map(|deadline| self.deadlines.insert((deadline, port)));
        }
    }

    fn enqueue(&mut self, port: u32) {
        if let Some(connection) = self.connections.get_mut(&port)
            && connection.wants_to_send()
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.ready.push_back(port);
        }
    }

    fn reset_later(&mut self, ports: Ports) {
        if self.resets.len() < MAX_WAITING_RESETS {
            self.resets.push_back(ports);
        }
    }

    fn remove(&mut self, port: u32) {
        if port == LIFELINE_PORT {
            // Its last frames are the caller's.
            self.connections.entry(port).and_modify(Connection::abandon);
            self.lifeline = Lifeline::Ended;
            return;
        }
        let Some(mut connection) = self.connections.remove(&port) else { return };
        self.move_deadline(port, connection.deadline, None);
        connection.release(&self.poller);
        let id = ConnectionId(port);
        self.events.push_back(match connection.was_established() {
            true => VsockEvent::Closed(id),
            false => VsockEvent::Refused(id),
        });
    }

    /// Sends what is to be sent, in turn. True when there is more to do at once.
    pub(super) fn serve(&mut self, link: &mut Link) -> Result<bool, BrokenQueue> {
        let mut left = MAX_PACKETS_IN_ONE_GO;
        while left > 0 && !link.starved() {
            if let Some(ports) = self.resets.front().copied() {
                let reset = header(ports, Operation::Reset);
                if link.send(0, |_| Some(0), |_| reset)? != Sent::NoBuffer {
                    self.resets.pop_front();
                }
            } else if let Some(port) = self.ready.pop_front() {
                self.serve_one(port, link)?;
            } else {
                return Ok(false);
            }
            left -= 1;
        }
        Ok(!link.starved() && self.has_work())
    }

    fn serve_one(&mut self, port: u32, link: &mut Link) -> Result<(), BrokenQueue> {
        // Removed while it was in the line.
        let Some(connection) = self.connections.get_mut(&port) else { return Ok(()) };
        connection.queued = false;
        if connection.send_next(link, &self.poller)? == Sent::NoBuffer {
            connection.queued = true;
            self.ready.push_front(port);
        } else {
            self.settle(port);
        }
        Ok(())
    }

    /// When [`Self::expire`] is to be called next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Gives up what the guest did not answer in time.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.deadlines.first().is_some_and(|first| first.0 <= now) {
            if let Some((_, port)) = self.deadlines.pop_first() {
                self.close(ConnectionId(port));
            }
        }
    }

    /// The driver is gone, and every connection with it.
    pub(super) fn clear(&mut self) {
        self.resets.clear();
        self.ready.clear();
        self.deadlines.clear();
        self.ports().into_iter().for_each(|port| self.remove(port));
    }
}
