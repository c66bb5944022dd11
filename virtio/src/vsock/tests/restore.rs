//! A device that is saved while it serves, and one that takes its place.

use std::io::Write as _;

use super::super::link::EVENT_QUEUE;
use super::super::packet::{Header, Operation};
use super::super::*;
use super::guest::*;
use crate::fuzzing::{BUFFERS, Piece};
use cofferdam_protocol::bounds::LIFELINE_PORT;

#[test]
fn a_device_on_hold_reads_nothing_from_the_host_and_loses_nothing() {
    let mut guest = Guest::new();
    let (endpoint, mut host) = stream();
    guest.connected(endpoint);
    guest.vsock.hold(true);
    host.write_all(b"later").unwrap();
    assert_eq!(guest.data(), b"");
    guest.vsock.hold(false);
    assert_eq!(guest.data(), b"later");
}

#[test]
fn input_is_settled_when_the_guest_says_that_its_programs_have_it() {
    let mut guest = Guest::new();
    let (reader, writer) = pipe();
    let id = guest.connected(Endpoint::Source(reader));
    rustix::io::write(&writer, b"input").unwrap();
    assert_eq!(guest.data(), b"input");
    assert!(!guest.vsock.settled());
    guest.vsock.ask();
    assert_eq!(guest.operations(), [Operation::CreditRequest]);
    guest.forwarded = 5;
    guest.say(id, Operation::CreditUpdate);
    assert!(guest.vsock.settled());
}

#[test]
fn output_is_settled_when_the_host_has_it() {
    let mut guest = Guest::new();
    let (reader, writer) = pipe();
    let id = guest.connected(Endpoint::Sink(writer));
    (0..24).for_each(|_| guest.write(id, &[1; 4096]));
    assert!(!guest.vsock.settled(), "a pipe has room for 64 KiB");
    let mut buffer = vec![0; 1 << 20];
    rustix::io::read(&reader, &mut buffer).unwrap();
    guest.turn();
    assert!(guest.vsock.settled());
}

#[test]
fn words_to_the_agent_go_over_its_lifeline() {
    let mut guest = Guest::new();
    assert!(!guest.vsock.tell(b"S"));
    guest.send(guest.header(LIFELINE_PORT, Operation::Request), &[]);
    guest.packets();
    assert!(guest.vsock.tell(b"S"));
    assert_eq!(guest.data(), b"S");
}

#[test]
fn a_restored_device_tells_the_driver_that_its_connections_are_over() {
    let mut guest = Guest::new();
    let event = BUFFERS + 0x20_0000;
    let piece = Piece { address: event, length: 8, writable: true };
    guest.driver.offer(EVENT_QUEUE, &[piece]).unwrap();
    guest.driver.write(event, &[0xff; 8]);
    let (endpoint, _host) = stream();
    let old = guest.connected(endpoint);
    guest.send(guest.header(LIFELINE_PORT, Operation::Request), &[]);
    guest.packets();

    let (state, positions) = (guest.vsock.save(), guest.vsock.positions());
    let poller = Arc::new(Poller::open().unwrap());
    let (device, mut vsock) = open(Arc::clone(&poller), 7).unwrap();
    vsock.restore(state);
    guest.driver.restore_into(Box::new(device), &positions);
    (guest.vsock, guest.poller) = (vsock, poller);

    assert_eq!(guest.event(), Some(VsockEvent::DriverReady));
    assert_eq!(guest.driver.used(EVENT_QUEUE).map(|(_, written)| written), Some(4));
    assert_eq!(guest.driver.read(event, 4), [0; 4]);
    // The lifeline is expected again, and new connections have ports of their own.
    let lifeline = Header { source_port: 99, ..guest.header(LIFELINE_PORT, Operation::Request) };
    guest.send(lifeline, &[]);
    assert_eq!(guest.operations(), [Operation::Response]);
    let (endpoint, _host) = stream();
    assert!(guest.connected(endpoint) > old);
}
