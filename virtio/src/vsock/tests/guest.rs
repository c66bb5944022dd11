//! A guest with a vsock driver and no opinion.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::super::link::{RECEIVE_QUEUE, TRANSMIT_QUEUE};
use super::super::packet::{HEADER_BYTES, Header, Operation, TYPE_STREAM};
use super::super::*;
use crate::fuzzing::{BUFFERS, Driver, Piece};
use crate::poll::Events;
use cofferdam_protocol::bounds::{GUEST_CID, HOST_CID};

pub(super) const PORT: u32 = 1025;
/// What a Linux guest takes unless told otherwise.
pub(super) const GUEST_WINDOW: u32 = 256 << 10;
const RECEIVE_BUFFER_BYTES: u32 = 4096;
const TRANSMIT_BUFFER: u64 = BUFFERS + 0x10_0000;

pub(super) struct Guest {
    pub(super) driver: Driver,
    pub(super) vsock: Vsock,
    pub(super) poller: Arc<Poller>,
    /// What it tells of its own buffer in each packet.
    pub(super) window: u32,
    pub(super) forwarded: u32,
    feeds: bool,
    inbox: Vec<(Header, Vec<u8>)>,
}

impl Guest {
    /// One whose receive queue is full.
    pub(super) fn new() -> Self {
        let mut guest = Self::starving();
        guest.feed();
        guest
    }

    /// One that gives no buffers to receive into.
    pub(super) fn starving() -> Self {
        let poller = Arc::new(Poller::open().unwrap());
        let (device, vsock) = open(Arc::clone(&poller), 7).unwrap();
        let driver = Driver::start(Box::new(device), 3);
        let mut guest = Self {
            driver,
            vsock,
            poller,
            window: GUEST_WINDOW,
            forwarded: 0,
            feeds: false,
            inbox: Vec::new(),
        };
        guest.turn();
        assert_eq!(guest.event(), Some(VsockEvent::DriverReady));
        guest
    }

    /// Gives buffers from now on.
    pub(super) fn feed(&mut self) {
        self.feeds = true;
        let room = self.driver.room(RECEIVE_QUEUE);
        for index in 0..room as u64 {
            self.give(BUFFERS + index * u64::from(RECEIVE_BUFFER_BYTES));
        }
    }

    /// Gives no buffers in place of those that are filled.
    pub(super) fn stop_feeding(&mut self) {
        self.feeds = false;
    }

    fn give(&mut self, address: u64) {
        let piece = Piece { address, length: RECEIVE_BUFFER_BYTES, writable: true };
        self.driver.offer(RECEIVE_QUEUE, &[piece]).unwrap();
    }

    /// Lets the device work until it waits.
    pub(super) fn turn(&mut self) {
        let mut events = Events::new();
        loop {
            let ready = self.poller.wait(&mut events, Some(Duration::ZERO)).unwrap().to_vec();
            for (token, readiness) in &ready {
                assert_eq!(token.owner, 7);
                self.vsock.handle(*token, *readiness);
            }
            if !self.take_packets() && ready.is_empty() {
                return;
            }
        }
    }

    fn take_packets(&mut self) -> bool {
        let mut any = false;
        while let Some((head, written)) = self.driver.used(RECEIVE_QUEUE) {
            any = true;
            let address = self.address(head);
            let bytes = self.driver.read(address, written as usize);
            let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
            let header = Header::from_bytes(header);
            assert_eq!(header.length as usize, payload.len());
            self.inbox.push((header, payload.to_vec()));
            if self.feeds {
                self.give(address);
            }
        }
        while self.driver.used(TRANSMIT_QUEUE).is_some() {}
        any
    }

    fn address(&self, head: u16) -> u64 {
        let at = 0x1_0000 * (RECEIVE_QUEUE as u64 + 1) + 16 * u64::from(head);
        u64::from_le_bytes(self.driver.read(at, 8).try_into().unwrap())
    }

    /// The packets received since the last call.
    pub(super) fn packets(&mut self) -> Vec<(Header, Vec<u8>)> {
        self.turn();
        std::mem::take(&mut self.inbox)
    }

    /// The data received until there is as much, for what takes its time in the host's kernel.
    pub(super) fn wait_for_data(&mut self, length: usize) -> Vec<u8> {
        let mut data = Vec::new();
        for _ in 0..500 {
            data.extend(self.data());
            if data.len() >= length {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        data
    }

    /// What the packets received since the last call were for.
    pub(super) fn operations(&mut self) -> Vec<Operation> {
        self.packets().into_iter().map(|(header, _)| header.operation).collect()
    }

    /// The data received since the last call, which must be all there was.
    pub(super) fn data(&mut self) -> Vec<u8> {
        let packets = self.packets();
        packets.into_iter().filter(|packet| packet.0.operation == Operation::Data).fold(
            Vec::new(),
            |mut all, (_, payload)| {
                all.extend(payload);
                all
            },
        )
    }

    pub(super) fn header(&self, host_port: u32, operation: Operation) -> Header {
        Header {
            source_cid: GUEST_CID,
            destination_cid: HOST_CID,
            source_port: PORT,
            destination_port: host_port,
            length: 0,
            socket_type: TYPE_STREAM,
            operation,
            flags: 0,
            buffer: self.window,
            forwarded: self.forwarded,
        }
    }

    /// Sends a packet as a Linux driver does: header and payload in a piece each.
    pub(super) fn send(&mut self, header: Header, payload: &[u8]) {
        self.driver.write(TRANSMIT_BUFFER, &header.to_bytes());
        self.driver.write(TRANSMIT_BUFFER + 0x1000, payload);
        let head = Piece { address: TRANSMIT_BUFFER, length: HEADER_BYTES as u32, writable: false };
        let body = Piece {
            address: TRANSMIT_BUFFER + 0x1000,
            length: payload.len() as u32,
            writable: false,
        };
        let pieces = [head, body];
        let used = if payload.is_empty() { &pieces[..1] } else { &pieces[..] };
        self.driver.offer(TRANSMIT_QUEUE, used).unwrap();
        self.turn();
    }

    pub(super) fn say(&mut self, id: ConnectionId, operation: Operation) {
        self.send(self.header(id.0, operation), &[]);
    }

    pub(super) fn shut(&mut self, id: ConnectionId, flags: u32) {
        let header = Header { flags, ..self.header(id.0, Operation::Shutdown) };
        self.send(header, &[]);
    }

    pub(super) fn write(&mut self, id: ConnectionId, payload: &[u8]) {
        let length = payload.len() as u32;
        let header = Header { length, ..self.header(id.0, Operation::Data) };
        self.send(header, payload);
    }

    /// A connection that the guest has taken.
    pub(super) fn connected(&mut self, endpoint: Endpoint) -> ConnectionId {
        let id = self.vsock.connect(PORT, endpoint, b"").unwrap();
        assert_eq!(self.operations(), [Operation::Request]);
        self.say(id, Operation::Response);
        assert_eq!(self.event(), Some(VsockEvent::Connected(id)));
        id
    }

    pub(super) fn event(&mut self) -> Option<VsockEvent> {
        self.turn();
        self.vsock.next_event()
    }
}

/// A stream endpoint and the host's end of it.
pub(super) fn stream() -> (Endpoint, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (Endpoint::Stream(ours.into()), theirs)
}

/// A pipe whose both ends do not block.
pub(super) fn pipe() -> (OwnedFd, OwnedFd) {
    use rustix::pipe::{PipeFlags, pipe_with};
    pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap()
}
