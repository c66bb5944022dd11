//! One connection: its states, its credit both ways, and what is on its way.
//!
//! ```text
//!               RESPONSE                  nothing left to carry
//!  (requested) ─────────▶ (established) ────────────────────────▶ (closing)
//!       │                      │  guest sent RST,                    │ RST from the guest,
//!       │ RST, no answer       │  or shut both directions            │ or no answer
//!       ▼                      ▼                                     ▼
//!    removed                 (gone) ── output written ──────────▶ removed
//! ```
//!
//! Each direction ends by itself. Host to guest: the end of the host's input becomes
//! SHUTDOWN(SEND), after the data before it. Guest to host: the guest's SHUTDOWN(SEND) becomes the
//! end of the host's output, after the data before it. Neither touches the other direction. A guest
//! that goes without SHUTDOWN(SEND) before has TCP's connection reset, as it would its own.
//!
//! Hostile: every packet. Data beyond the credit granted, data after the guest's own end, and
//! packets that do not fit the state end the connection. What is kept of the guest's data is
//! bounded by the window.

use std::time::Instant;

use super::endpoint::{HostEnd, Kind, Moved};
use super::link::{Link, Ports, Sent, header};
use super::packet::{Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::pending::Pending;
use crate::poll::{Poller, Readiness};
use crate::queue::BrokenQueue;
use crate::slices::Slices;

/// What a guest may have sent on one connection that the host has not taken: two of the largest
/// packets of a Linux guest. Each connection whose host side does not read costs this much.
pub(super) const WINDOW_BYTES: u32 = 128 << 10;
/// The largest payload sent in one packet: what a Linux guest takes, too.
const MAX_PAYLOAD_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Requested,
    Established,
    Closing,
    Gone,
}

/// What a packet meant for the connection as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// It goes on.
    GoesOn,
    /// It came into being.
    Connected,
    /// The guest broke the protocol: reset it and forget it.
    Violated,
    /// The guest is done with it, and needs no answer.
    Ended,
    /// The guest is done with it, and waits for a reset.
    EndedWantsReset,
}

/// Packets without payload that are to be sent.
#[derive(Debug, Default)]
struct Due {
    handshake: Option<Operation>,
    shutdown: u32,
    credit: bool,
    question: bool,
}

/// How far the direction from guest to host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Open,
    /// The guest sends no more; what it sent is being written.
    Finishing,
    Done,
}

#[derive(Debug)]
pub(super) struct Connection {
    ports: Ports,
    phase: Phase,
    established: bool,
    /// The host's descriptor; `None` for the lifeline, whose bytes the muxer takes itself.
    end: Option<HostEnd>,
    due: Due,
    told_shutdown: u32,
    guest_shutdown: u32,
    prologue: Vec<u8>,
    input_ended: bool,
    output: Output,
    discards: bool,
    pending: Pending,
    window: u32,
    received: u32,
    forwarded: u32,
    advertised: u32,
    sent: u32,
    guest_buffer: u32,
    guest_forwarded: u32,
    /// Nothing is read from the host's descriptor.
    held: bool,
    /// When the guest's answer is overdue.
    pub(super) deadline: Option<Instant>,
    /// It is in the muxer's list of those with something to send.
    pub(super) queued: bool,
}

impl Connection {
    /// A connection that the host asks for.
    pub(super) fn requested(ports: Ports, end: HostEnd, prologue: &[u8]) -> Self {
        let discards = end.kind() == Kind::Source;
        let due = Due { handshake: Some(Operation::Request), ..Due::default() };
        Self {
            due,
            prologue: prologue.to_vec(),
            discards,
            ..Self::blank(ports, Phase::Requested, Some(end), WINDOW_BYTES)
        }
    }

    /// A connection that the guest asked for and gets, read by the muxer itself.
    pub(super) fn accepted(request: &Header, ports: Ports, window: u32) -> Self {
        let due = Due { handshake: Some(Operation::Response), ..Due::default() };
        let blank = Self::blank(ports, Phase::Established, None, window);
        Self {
            due,
            input_ended: true,
            guest_buffer: request.buffer,
            guest_forwarded: request.forwarded,
            ..blank
        }
    }

    fn blank(ports: Ports, phase: Phase, end: Option<HostEnd>, window: u32) -> Self {
        Self {
            ports,
            phase,
            established: phase == Phase::Established,
            end,
            due: Due::default(),
            told_shutdown: 0,
            guest_shutdown: 0,
            prologue: Vec::new(),
            input_ended: false,
            output: Output::Open,
            discards: false,
            pending: Pending::default(),
            window,
            received: 0,
            forwarded: 0,
            advertised: 0,
            sent: 0,
            guest_buffer: 0,
            guest_forwarded: 0,
            held: false,
            deadline: None,
            queued: false,
        }
    }

    pub(super) fn ports(&self) -> Ports {
        self.ports
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the guest ever took it.
    pub(super) fn was_established(&self) -> bool {
        self.established
    }

    /// Everything received is written, or never can be.
    pub(super) fn drained(&self) -> bool {
        self.pending.is_empty()
    }

    /// The guest has gone and nothing is left to write.
    pub(super) fn finished(&self) -> bool {
        self.phase == Phase::Gone && self.pending.is_empty()
    }

    /// Deals with a packet from the guest.
    pub(super) fn receive(
        &mut self,
        header: &Header,
        data: Slices<'_>,
        poller: &Poller,
    ) -> Reaction {
        self.guest_buffer = header.buffer;
        self.guest_forwarded = header.forwarded;
        match (self.phase, header.operation) {
            (Phase::Requested, Operation::Response) => {
                self.phase = Phase::Established;
                self.established = true;
                self.deadline = None;
                if let Some(end) = &mut self.end {
                    end.start(poller);
                }
                Reaction::Connected
            }
            (_, Operation::Reset) => self.guest_left(poller, Reaction::Ended),
            (Phase::Requested, _) => Reaction::Violated,
            (_, Operation::Shutdown) => self.guest_shuts(header.flags, poller),
            (_, Operation::Data) => self.take_data(data, poller),
            (_, Operation::CreditRequest) => {
                self.due.credit = true;
                Reaction::GoesOn
            }
            (_, Operation::CreditUpdate) => Reaction::GoesOn,
            _ => Reaction::Violated,
        }
    }

    fn guest_shuts(&mut self, flags: u32, poller: &Poller) -> Reaction {
        self.guest_shutdown |= flags & SHUTDOWN_BOTH;
        if self.guest_shutdown == SHUTDOWN_BOTH {
            return self.guest_left(poller, Reaction::EndedWantsReset);
        }
        if self.guest_shutdown & SHUTDOWN_RECEIVE != 0 {
            self.end_input(poller);
        }
        if self.guest_shutdown & SHUTDOWN_SEND != 0 && self.output == Output::Open {
            self.output = Output::Finishing;
            self.flush(poller);
        }
        Reaction::GoesOn
    }

    fn guest_left(&mut self, poller: &Poller, how: Reaction) -> Reaction {
        self.phase = Phase::Gone;
        self.deadline = None;
        self.due = Due::default();
        self.end_input(poller);
        let kind = self.end.as_ref().map(HostEnd::kind);
        match (self.output, kind) {
            (Output::Open, Some(Kind::Tcp)) => {
                self.pending.clear();
                self.release(poller);
            }
            (Output::Open, _) => self.output = Output::Finishing,
            (Output::Finishing | Output::Done, _) => {}
        }
        self.flush(poller);
        how
    }

    fn end_input(&mut self, poller: &Poller) {
        self.input_ended = true;
        self.prologue.clear();
        if let Some(end) = &mut self.end {
            end.finish_input(poller);
        }
    }

    fn take_data(&mut self, mut data: Slices<'_>, poller: &Poller) -> Reaction {
        let Ok(length) = u32::try_from(data.len()) else { return Reaction::Violated };
        let outstanding = self.received.wrapping_sub(self.forwarded);
        let room = self.window.saturating_sub(outstanding);
        if self.guest_shutdown & SHUTDOWN_SEND != 0 || length > room {
            return Reaction::Violated;
        }
        self.received = self.received.wrapping_add(length);
        if self.pending.is_empty() {
            self.write_through(&mut data, poller);
        }
        if self.discards {
            self.forwarded = self.received;
        } else {
            self.pending.append(&data);
        }
        self.note_progress();
        Reaction::GoesOn
    }

    /// Writes what the host takes at once, without a copy.
    fn write_through(&mut self, data: &mut Slices<'_>, poller: &Poller) {
        while !self.discards && data.len() > 0 {
            let Some(end) = &mut self.end else { return };
            match end.write(data, poller) {
                Moved::Bytes(count) => {
                    data.advance(count);
                    self.forward(count);
                }
                Moved::NotNow => return,
                Moved::Never => self.break_output(poller),
            }
        }
    }

    /// Writes what waits, as far as the host takes it; ends the output when that was its end.
    pub(super) fn flush(&mut self, poller: &Poller) {
        while !self.pending.is_empty() {
            let Some(end) = &mut self.end else { break };
            match end.write_bytes(self.pending.bytes(), poller) {
                Moved::Bytes(count) => {
                    self.pending.consume(count);
                    self.forward(count);
                }
                Moved::NotNow => break,
                Moved::Never => self.break_output(poller),
            }
        }
        if self.pending.is_empty() {
            if self.output == Output::Finishing {
                self.output = Output::Done;
                if let Some(end) = &mut self.end {
                    end.finish_output(poller);
                }
            } else if let Some(end) = &mut self.end {
                end.watch_output(poller, false);
            }
        }
        self.note_progress();
    }

    /// Takes the next bytes of the lifeline, if there are as many.
    pub(super) fn take_bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = *self.pending.bytes().first_chunk::<N>()?;
        self.pending.consume(N);
        self.forward(N);
        self.note_progress();
        Some(bytes)
    }

    fn forward(&mut self, count: usize) {
        // At most the window, which is a u32.
        self.forwarded = self.forwarded.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn note_progress(&mut self) {
        let untold = self.forwarded.wrapping_sub(self.advertised);
        self.due.credit |= untold >= self.window / 2;
    }

    /// Nobody takes the output any more: what comes is thrown away, and the guest is told, so that
    /// its writer gets `EPIPE`.
    fn break_output(&mut self, poller: &Poller) {
        self.discards = true;
        self.output = Output::Done;
        self.pending.clear();
        self.forwarded = self.received;
        self.due.shutdown |= SHUTDOWN_RECEIVE;
        if let Some(end) = &mut self.end {
            end.watch_output(poller, false);
        }
    }

    /// The poller reported something about the host's descriptor.
    pub(super) fn note(&mut self, readiness: Readiness, poller: &Poller) {
        let Some(end) = &mut self.end else { return };
        end.note(readiness);
        let abandoned = self.input_ended && end.hung_up() && end.kind() != Kind::Source;
        if abandoned && self.output == Output::Open {
            self.break_output(poller);
        }
        if readiness.writable || readiness.hung_up {
            self.flush(poller);
        }
    }

    /// Begins to close when neither direction has anything left to carry.
    pub(super) fn close_if_useless(&mut self, now: impl FnOnce() -> Instant) {
        if self.phase != Phase::Established {
            return;
        }
        let output_done = self.output == Output::Done;
        let useless = match self.end.as_ref().map(HostEnd::kind) {
            Some(Kind::Sink) | None => output_done,
            Some(Kind::Source) => {
                self.guest_shutdown & SHUTDOWN_RECEIVE != 0 || (self.input_ended && output_done)
            }
            Some(Kind::Stream | Kind::Tcp | Kind::Terminal) => self.input_ended && output_done,
        };
        if useless {
            self.phase = Phase::Closing;
            self.due.shutdown = SHUTDOWN_BOTH;
            self.deadline = Some(now());
        }
    }

    /// Whether an attempt to send may send something.
    pub(super) fn wants_to_send(&self) -> bool {
        let Due { handshake, shutdown, credit, question } = self.due;
        let due = handshake.is_some() || shutdown != 0 || credit || question;
        due && self.phase != Phase::Gone || self.has_payload()
    }

    fn has_payload(&self) -> bool {
        let open = !self.input_ended && !self.held;
        let readable = open && self.end.as_ref().is_some_and(HostEnd::readable);
        let payload = !self.prologue.is_empty() || readable;
        payload && self.phase == Phase::Established && self.credit() > 0
    }

    /// How many bytes the guest takes. A guest that claims to have taken more than it was sent, or
    /// to have shrunk its buffer, gets nothing.
    fn credit(&self) -> usize {
        let in_flight = self.sent.wrapping_sub(self.guest_forwarded);
        usize::try_from(self.guest_buffer.saturating_sub(in_flight)).unwrap_or(0)
    }

    /// Sends the next packet that is due.
    pub(super) fn send_next(
        &mut self,
        link: &mut Link,
        poller: &Poller,
    ) -> Result<Sent, BrokenQueue> {
        if let Some(operation) = self.due.handshake {
            return self.send_control(link, operation, 0, |due| due.handshake = None);
        }
        if self.due.shutdown != 0 {
            let flags = self.told_shutdown | self.due.shutdown;
            let sent =
                self.send_control(link, Operation::Shutdown, flags, |due| due.shutdown = 0)?;
            if sent != Sent::NoBuffer {
                self.told_shutdown = flags;
            }
            return Ok(sent);
        }
        if self.has_payload() {
            return self.send_payload(link, poller);
        }
        if self.due.question {
            let asked = |due: &mut Due| due.question = false;
            return self.send_control(link, Operation::CreditRequest, 0, asked);
        }
        if self.due.credit {
            return self.send_control(link, Operation::CreditUpdate, 0, |due| due.credit = false);
        }
        Ok(Sent::Nothing)
    }

    fn send_control(
        &mut self,
        link: &mut Link,
        operation: Operation,
        flags: u32,
        done: impl FnOnce(&mut Due),
    ) -> Result<Sent, BrokenQueue> {
        let header = Header { flags, ..self.header(operation) };
        let sent = link.send(0, |_| Some(0), |_| header)?;
        if sent != Sent::NoBuffer {
            done(&mut self.due);
            self.told();
        }
        Ok(sent)
    }

    fn send_payload(&mut self, link: &mut Link, poller: &Poller) -> Result<Sent, BrokenQueue> {
        let limit = self.credit().min(MAX_PAYLOAD_BYTES);
        let header = self.header(Operation::Data);
        let (prologue, end) = (&mut self.prologue, &mut self.end);
        let mut ended = false;
        let fill = |room: &mut Slices<'_>| match end {
            _ if !prologue.is_empty() => {
                let count = prologue.len().min(room.len());
                let put = room.put(prologue.get(..count)?);
                prologue.drain(..count);
                put.then_some(count)
            }
            Some(end) => match end.read(room) {
                Moved::Bytes(count) => Some(count),
                Moved::NotNow => None,
                Moved::Never => {
                    ended = true;
                    None
                }
            },
            None => None,
        };
        let sent = link.send(limit, fill, |_| header)?;
        if let Sent::Packet(count) = sent {
            self.sent = self.sent.wrapping_add(count);
            self.told();
        }
        if ended {
            self.host_ended(poller);
        }
        Ok(sent)
    }

    /// The host's input ended, and its data is sent.
    fn host_ended(&mut self, poller: &Poller) {
        self.input_ended = true;
        self.due.shutdown |= SHUTDOWN_SEND;
        let Some(end) = &mut self.end else { return };
        match end.kind() {
            Kind::Source => end.release(poller),
            // A terminal has one end only: who hung up reads no more either.
            Kind::Terminal => self.break_output(poller),
            Kind::Stream | Kind::Tcp if end.hung_up() => self.break_output(poller),
            Kind::Stream | Kind::Tcp | Kind::Sink => {}
        }
    }

    fn header(&self, operation: Operation) -> Header {
        Header { buffer: self.window, forwarded: self.forwarded, ..header(self.ports, operation) }
    }

    /// A packet told the guest how much was taken.
    fn told(&mut self) {
        self.advertised = self.forwarded;
        self.due.credit = false;
    }

    /// Stops or goes on reading from the host's descriptor.
    pub(super) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Asks the guest how much of what it was sent its programs have taken.
    pub(super) fn ask(&mut self) {
        self.due.question = self.phase == Phase::Established && self.on_its_way() > 0;
    }

    /// Bytes sent to the guest that its programs, as far as is known, have not taken.
    fn on_its_way(&self) -> u32 {
        self.sent.wrapping_sub(self.guest_forwarded)
    }

    /// Whether nothing of a stream is between its two ends. A connection to the agent carries
    /// requests, which end with it.
    pub(super) fn settled(&self) -> bool {
        let kind = self.end.as_ref().map(HostEnd::kind);
        let taken = !matches!(kind, Some(Kind::Source | Kind::Terminal))
            || self.phase != Phase::Established
            || self.guest_shutdown & SHUTDOWN_RECEIVE != 0
            || self.on_its_way() == 0;
        self.phase != Phase::Requested && self.pending.is_empty() && taken
    }

    /// Sends bytes of our own, after those that wait.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.prologue.extend_from_slice(bytes);
    }

    /// No packet is for this connection any more.
    pub(super) fn abandon(&mut self) {
        self.phase = Phase::Gone;
    }

    /// Lets go of the host's descriptor.
    pub(super) fn release(&mut self, poller: &Poller) {
        if let Some(end) = &mut self.end {
            end.release(poller);
        }
    }
}
