//! How connections begin.

use std::io::Write;

use super::super::packet::{Header, Operation};
use super::super::*;
use super::guest::{Guest, PORT, stream};
use cofferdam_protocol::bounds::{GUEST_CID, HOST_CID, LIFELINE_PORT};
use cofferdam_protocol::lifeline::LifelineFrame;

#[test]
fn a_connection_begins_with_a_request_to_the_port() {
    let mut guest = Guest::new();
    let (endpoint, _host) = stream();
    let id = guest.vsock.connect(PORT, endpoint, b"hello").unwrap();
    let [(request, _)] = guest.packets().try_into().unwrap();
    assert_eq!(request.operation, Operation::Request);
    assert_eq!((request.source_cid, request.destination_cid), (HOST_CID, GUEST_CID));
    assert_eq!((request.source_port, request.destination_port), (id.0, PORT));
    assert_eq!(guest.event(), None);
}

#[test]
fn the_prologue_comes_before_the_hosts_bytes() {
    let mut guest = Guest::new();
    let (endpoint, mut host) = stream();
    host.write_all(b" world").unwrap();
    let id = guest.vsock.connect(PORT, endpoint, b"hello").unwrap();
    guest.packets();
    guest.say(id, Operation::Response);
    assert_eq!(guest.event(), Some(VsockEvent::Connected(id)));
    assert_eq!(guest.data(), b"hello world");
}

#[test]
fn a_reset_refuses_a_connection() {
    let mut guest = Guest::new();
    let (endpoint, mut host) = stream();
    let id = guest.vsock.connect(PORT, endpoint, b"").unwrap();
    guest.say(id, Operation::Reset);
    assert_eq!(guest.event(), Some(VsockEvent::Refused(id)));
    assert_eq!(guest.event(), None);
    assert!(host.write_all(b"x").is_err(), "the descriptor is closed");
}

#[test]
fn a_guest_that_does_not_answer_refuses_in_the_end() {
    let mut guest = Guest::new();
    let (endpoint, _host) = stream();
    let id = guest.vsock.connect(PORT, endpoint, b"").unwrap();
    let deadline = guest.vsock.deadline().unwrap();
    guest.packets();
    guest.vsock.expire(deadline);
    assert_eq!(guest.event(), Some(VsockEvent::Refused(id)));
    assert_eq!(guest.operations(), [Operation::Reset]);
    assert_eq!(guest.vsock.deadline(), None);
}

#[test]
fn no_connection_is_asked_of_a_guest_without_a_driver() {
    let poller = Arc::new(Poller::open().unwrap());
    let (_device, mut vsock) = open(poller, 0).unwrap();
    let (endpoint, _host) = stream();
    assert_eq!(vsock.connect(PORT, endpoint, b""), Err(ConnectError::NotReady));
}

#[test]
fn places_are_limited() {
    let mut guest = Guest::new();
    let mut hosts = Vec::new();
    for _ in 0..muxer::MAX_CONNECTIONS {
        let (endpoint, host) = stream();
        guest.vsock.connect(PORT, endpoint, b"").unwrap();
        hosts.push(host);
    }
    let (endpoint, _host) = stream();
    assert_eq!(guest.vsock.connect(PORT, endpoint, b""), Err(ConnectError::TooMany));
}

fn request(guest: &Guest, port: u32) -> Header {
    guest.header(port, Operation::Request)
}

#[test]
fn the_guest_gets_its_lifeline_once() {
    let mut guest = Guest::new();
    guest.send(request(&guest, LIFELINE_PORT), &[]);
    assert_eq!(guest.operations(), [Operation::Response]);
    let second = Header { source_port: PORT + 1, ..request(&guest, LIFELINE_PORT) };
    guest.send(second, &[]);
    assert_eq!(guest.operations(), [Operation::Reset]);
}

#[test]
fn the_guest_gets_no_other_port() {
    let mut guest = Guest::new();
    for port in [0, 1, 22, 1023, 1025, 1026, u32::MAX] {
        guest.send(request(&guest, port), &[]);
        assert_eq!(guest.operations(), [Operation::Reset], "port {port}");
    }
}

#[test]
fn frames_of_the_lifeline_come_whole_and_before_its_end() {
    let mut guest = Guest::new();
    guest.send(request(&guest, LIFELINE_PORT), &[]);
    let lifeline = ConnectionId(LIFELINE_PORT);
    let frame = LifelineFrame::ready().to_bytes();
    guest.write(lifeline, &frame[..5]);
    assert_eq!(guest.event(), None);
    guest.write(lifeline, &[&frame[5..], &frame[..]].concat());
    guest.say(lifeline, Operation::Reset);
    assert_eq!(guest.event(), Some(VsockEvent::LifelineFrame(frame)));
    assert_eq!(guest.event(), Some(VsockEvent::LifelineFrame(frame)));
    assert_eq!(guest.event(), Some(VsockEvent::LifelineClosed));
    assert_eq!(guest.event(), None);
}

#[test]
fn frames_that_nobody_takes_stop_the_lifeline() {
    let mut guest = Guest::new();
    guest.send(request(&guest, LIFELINE_PORT), &[]);
    guest.packets();
    let lifeline = ConnectionId(LIFELINE_PORT);
    guest.write(lifeline, &[0; 4096]);
    assert_eq!(guest.operations(), []);
    for _ in 0..256 {
        assert!(matches!(guest.event(), Some(VsockEvent::LifelineFrame(_))));
    }
    assert_eq!(guest.event(), None);
    let updates = guest.packets();
    assert_eq!(updates.last().unwrap().0.forwarded, 4096);
}

#[test]
fn a_reset_of_the_device_ends_every_connection() {
    let mut guest = Guest::new();
    let (endpoint, _host) = stream();
    let id = guest.connected(endpoint);
    guest.send(request(&guest, LIFELINE_PORT), &[]);
    std::thread::scope(|scope| {
        let driver = &mut guest.driver;
        let reset = scope.spawn(move || driver.register(crate::mmio::STATUS, 0));
        let mut events = crate::poll::Events::new();
        while !reset.is_finished() {
            let wait = Some(std::time::Duration::from_millis(10));
            for (token, readiness) in guest.poller.wait(&mut events, wait).unwrap() {
                guest.vsock.handle(*token, *readiness);
            }
        }
    });
    assert_eq!(guest.vsock.next_event(), Some(VsockEvent::Closed(id)));
    assert_eq!(guest.vsock.next_event(), Some(VsockEvent::LifelineClosed));
    assert_eq!(guest.vsock.next_event(), None);
}
