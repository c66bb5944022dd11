//! A guest that means no good.

use proptest::prelude::*;

use super::super::link::TRANSMIT_QUEUE;
use super::super::packet::{HEADER_BYTES, Header, Operation, SHUTDOWN_SEND};
use super::super::*;
use super::guest::{Guest, pipe, stream};
use crate::fuzzing::{BUFFERS, MEMORY_BYTES, Piece};
use crate::interrupt::DEVICE_NEEDS_RESET;
use crate::mmio::STATUS;

const NEXT: u16 = 1;

#[test]
fn packets_of_connections_that_are_not_there_are_reset() {
    let mut guest = Guest::new();
    for operation in
        [Operation::Response, Operation::Data, Operation::Shutdown, Operation::CreditUpdate]
    {
        guest.say(ConnectionId(77), operation);
        assert_eq!(guest.operations(), [Operation::Reset], "{operation:?}");
    }
    guest.say(ConnectionId(77), Operation::Reset);
    assert_eq!(guest.operations(), []);
}

#[test]
fn packets_from_another_port_do_not_reach_a_connection() {
    let mut guest = Guest::new();
    let (endpoint, _host) = stream();
    let id = guest.connected(endpoint);
    let header = Header { source_port: 9, ..guest.header(id.0, Operation::Reset) };
    guest.send(header, &[]);
    assert_eq!(guest.event(), None);
}

#[test]
fn packets_of_other_machines_are_dropped() {
    let mut guest = Guest::new();
    let (endpoint, _host) = stream();
    let id = guest.connected(endpoint);
    let reset = guest.header(id.0, Operation::Reset);
    guest.send(Header { source_cid: 4, ..reset }, &[]);
    guest.send(Header { destination_cid: 1, ..reset }, &[]);
    assert_eq!(guest.event(), None);
    assert_eq!(guest.operations(), []);
}

#[test]
fn what_does_not_fit_the_state_ends_the_connection() {
    for operation in [Operation::Request, Operation::Response, Operation::Unknown(99)] {
        let mut guest = Guest::new();
        let (endpoint, _host) = stream();
        let id = guest.connected(endpoint);
        guest.say(id, operation);
        assert_eq!(guest.event(), Some(VsockEvent::Closed(id)), "{operation:?}");
        assert_eq!(guest.operations(), [Operation::Reset], "{operation:?}");
    }
}

#[test]
fn data_after_the_guests_own_end_ends_the_connection() {
    let mut guest = Guest::new();
    let (endpoint, _host) = stream();
    let id = guest.connected(endpoint);
    guest.shut(id, SHUTDOWN_SEND);
    guest.write(id, b"x");
    assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
}

#[test]
fn a_packet_of_another_type_is_refused() {
    let mut guest = Guest::new();
    let (endpoint, _host) = stream();
    let id = guest.connected(endpoint);
    let header = Header { socket_type: 2, ..guest.header(id.0, Operation::Data) };
    guest.send(header, &[]);
    assert_eq!(guest.operations(), [Operation::Reset]);
}

#[test]
fn a_header_that_promises_more_than_there_is_is_dropped() {
    let mut guest = Guest::new();
    let (_read, write) = pipe();
    let id = guest.connected(Endpoint::Sink(write));
    let header = Header { length: 100, ..guest.header(id.0, Operation::Data) };
    guest.send(header, b"short");
    assert_eq!(guest.event(), None);
    assert_eq!(guest.operations(), []);
}

fn transmit(guest: &mut Guest, pieces: &[Piece]) {
    guest.driver.offer(TRANSMIT_QUEUE, pieces).unwrap();
    guest.turn();
}

#[test]
fn malformed_chains_are_returned_and_do_no_harm() {
    let mut guest = Guest::new();
    let readable = |address, length| Piece { address, length, writable: false };
    let bad = [
        readable(BUFFERS, 0),
        readable(BUFFERS, HEADER_BYTES as u32 - 1),
        readable(u64::MAX, 44),
        readable(MEMORY_BYTES as u64 - 4, 44),
        Piece { address: BUFFERS, length: 44, writable: true },
        readable(BUFFERS, u32::MAX),
    ];
    for piece in bad {
        transmit(&mut guest, &[piece]);
        assert_eq!(guest.driver.registered(STATUS) & DEVICE_NEEDS_RESET, 0, "{piece:?}");
    }
    let (endpoint, _host) = stream();
    guest.connected(endpoint);
}

#[test]
fn a_header_in_pieces_is_put_together() {
    let mut guest = Guest::new();
    let header = guest.header(77, Operation::Data).to_bytes();
    guest.driver.write(BUFFERS + 0x20_0000, &header);
    let piece =
        |at: u64, length| Piece { address: BUFFERS + 0x20_0000 + at, length, writable: false };
    transmit(&mut guest, &[piece(0, 1), piece(1, 0), piece(1, 40), piece(41, 3)]);
    assert_eq!(guest.operations(), [Operation::Reset]);
}

#[test]
fn a_chain_that_loops_ends() {
    let mut guest = Guest::new();
    let piece = Piece { address: BUFFERS, length: 1, writable: false };
    guest.driver.descriptor(TRANSMIT_QUEUE, 3, &piece, NEXT, 3);
    guest.driver.announce(TRANSMIT_QUEUE, 3);
    guest.turn();
    assert_eq!(guest.driver.registered(STATUS) & DEVICE_NEEDS_RESET, 0);
}

#[test]
fn a_head_out_of_range_breaks_the_device_and_every_connection() {
    let mut guest = Guest::new();
    let (endpoint, _host) = stream();
    let id = guest.connected(endpoint);
    guest.driver.announce(TRANSMIT_QUEUE, 4000);
    assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
    assert_ne!(guest.driver.registered(STATUS) & DEVICE_NEEDS_RESET, 0);
}

#[test]
fn an_index_that_jumps_breaks_the_device() {
    let mut guest = Guest::new();
    guest.driver.jump(TRANSMIT_QUEUE, 17);
    guest.turn();
    assert_ne!(guest.driver.registered(STATUS) & DEVICE_NEEDS_RESET, 0);
    let (endpoint, _host) = stream();
    assert_eq!(guest.vsock.connect(1, endpoint, b""), Err(ConnectError::NotReady));
}

#[test]
fn refusals_that_the_guest_does_not_take_are_forgotten_at_a_bound() {
    let mut guest = Guest::starving();
    for _ in 0..1000 {
        guest.say(ConnectionId(77), Operation::Data);
    }
    guest.feed();
    assert_eq!(guest.operations().len(), 256);
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        Just(Request),
        Just(Response),
        Just(Reset),
        Just(Shutdown),
        Just(Data),
        Just(CreditUpdate),
        Just(CreditRequest),
        any::<u16>().prop_map(Unknown),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_sequence_of_packets_panics_or_costs_more_than_its_bounds(
        packets in proptest::collection::vec(
            (0..4usize, operation(), 0..4u32, any::<u32>(), any::<u32>(), 0..3000usize), 0..80)
    ) {
        let mut guest = Guest::new();
        let (first, _first) = stream();
        let (read, write) = pipe();
        let (source, _writer) = pipe();
        let ids = [
            guest.vsock.connect(1025, first, b"hello").unwrap(),
            guest.vsock.connect(1025, Endpoint::Sink(write), b"").unwrap(),
            guest.vsock.connect(1025, Endpoint::Source(source), b"").unwrap(),
            ConnectionId(cofferdam_protocol::bounds::LIFELINE_PORT),
        ];
        for (which, operation, flags, buffer, forwarded, length) in packets {
            let header = Header {
                flags, buffer, forwarded, length: length as u32,
                ..guest.header(ids[which].0, operation)
            };
            guest.send(header, &vec![0; length]);
            while guest.vsock.next_event().is_some() {}
        }
        drop(read);
    }
}
