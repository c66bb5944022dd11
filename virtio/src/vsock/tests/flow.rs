//! Credit, back-pressure and descriptors of every kind.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;

use super::super::connection::WINDOW_BYTES;
use super::super::packet::{Operation, SHUTDOWN_SEND};
use super::super::*;
use super::guest::{Guest, pipe, stream};

#[test]
fn the_guest_gets_no_more_than_it_has_room_for() {
    let mut guest = Guest::new();
    guest.window = 10;
    let (endpoint, mut host) = stream();
    let id = guest.connected(endpoint);
    host.write_all(b"0123456789abcdef").unwrap();
    assert_eq!(guest.data(), b"0123456789");
    guest.forwarded = 4;
    guest.say(id, Operation::CreditUpdate);
    assert_eq!(guest.data(), b"abcd");
    guest.forwarded = 14;
    guest.say(id, Operation::CreditUpdate);
    assert_eq!(guest.data(), b"ef");
}

#[test]
fn a_guest_that_lies_about_its_room_gets_nothing() {
    let mut guest = Guest::new();
    guest.window = 10;
    let (endpoint, mut host) = stream();
    let id = guest.connected(endpoint);
    host.write_all(&[0; 32]).unwrap();
    assert_eq!(guest.data().len(), 10);
    // It claims to have taken more than it was sent.
    guest.forwarded = 1000;
    guest.say(id, Operation::CreditUpdate);
    assert_eq!(guest.data().len(), 0);
}

#[test]
fn a_guest_that_asks_is_told_its_room() {
    let mut guest = Guest::new();
    let (endpoint, _host) = stream();
    let id = guest.connected(endpoint);
    guest.say(id, Operation::CreditRequest);
    let [(update, _)] = guest.packets().try_into().unwrap();
    assert_eq!(update.operation, Operation::CreditUpdate);
    assert_eq!((update.buffer, update.forwarded), (WINDOW_BYTES, 0));
}

#[test]
fn a_slow_reader_stops_the_guest_and_loses_nothing() {
    let mut guest = Guest::new();
    let (read, write) = pipe();
    let id = guest.connected(Endpoint::Sink(write));
    let pattern: Vec<u8> = (0..=255).collect();
    let mut sent = Vec::new();
    // A pipe takes 64 KiB, of which the guest is told; the window takes the rest.
    for chunk in 0..48u8 {
        let payload: Vec<u8> =
            pattern.iter().cycle().skip(chunk.into()).take(4096).copied().collect();
        guest.write(id, &payload);
        sent.extend(payload);
    }
    assert!(!guest.vsock.drained(id));
    assert_eq!(guest.event(), None, "the guest stayed within its credit");
    let mut host = File::from(read);
    let mut got = Vec::new();
    let mut buffer = [0; 8192];
    while got.len() < sent.len() {
        let count = host.read(&mut buffer).unwrap();
        got.extend_from_slice(&buffer[..count]);
        guest.turn();
    }
    assert!(got == sent, "bytes were lost or changed");
    assert!(guest.vsock.drained(id));
    let last = guest.packets().last().unwrap().0;
    assert_eq!(last.operation, Operation::CreditUpdate);
}

#[test]
fn a_guest_beyond_its_credit_is_reset() {
    let mut guest = Guest::new();
    let (_read, write) = pipe();
    let id = guest.connected(Endpoint::Sink(write));
    let chunk = [0; 32 << 10];
    for _ in 0..7 {
        guest.write(id, &chunk);
    }
    assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
    assert!(guest.operations().contains(&Operation::Reset));
}

#[test]
fn a_guest_without_buffers_gets_everything_when_it_gives_some() {
    let mut guest = Guest::starving();
    let (endpoint, mut host) = stream();
    let id = guest.vsock.connect(super::guest::PORT, endpoint, b"").unwrap();
    assert_eq!(guest.operations(), []);
    guest.feed();
    assert_eq!(guest.operations(), [Operation::Request]);
    guest.say(id, Operation::Response);
    let input = vec![7; 200_000];
    let copy = input.clone();
    let writer = std::thread::spawn(move || host.write_all(&copy).map(|()| host));
    let mut got = Vec::new();
    while got.len() < input.len() {
        got.extend(guest.data());
        guest.forwarded = got.len() as u32;
        guest.say(id, Operation::CreditUpdate);
    }
    assert!(got == input);
    drop(writer.join().unwrap().unwrap());
}

#[test]
fn connections_take_turns() {
    let mut guest = Guest::new();
    let (first, mut first_host) = stream();
    let (second, mut second_host) = stream();
    let first = guest.connected(first);
    let second = guest.connected(second);
    guest.stop_feeding();
    first_host.write_all(&[1; 150_000]).unwrap();
    second_host.write_all(&[2; 150_000]).unwrap();
    guest.packets();
    guest.feed();
    let packets = guest.packets();
    let ports: Vec<u32> = packets.iter().map(|(header, _)| header.source_port).collect();
    assert!(ports.len() > 32);
    for pair in ports[..32].chunks(2) {
        assert!(pair.contains(&first.0) && pair.contains(&second.0), "{pair:?}");
    }
}

#[test]
fn a_regular_file_is_read_to_its_end() {
    let mut guest = Guest::new();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[b'f'; 10_000]).unwrap();
    file.rewind().unwrap();
    let id = guest.connected(Endpoint::Source(file.into()));
    let packets = guest.packets();
    let length: usize = packets.iter().map(|packet| packet.1.len()).sum();
    assert_eq!(length, 10_000);
    assert_eq!(packets.last().unwrap().0.flags, SHUTDOWN_SEND);
    guest.say(id, Operation::Reset);
    assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
}

#[test]
fn a_regular_file_is_written() {
    let mut guest = Guest::new();
    let mut file = tempfile::tempfile().unwrap();
    let id = guest.connected(Endpoint::Sink(file.try_clone().unwrap().into()));
    guest.write(id, &[b'f'; 10_000]);
    assert!(guest.vsock.drained(id));
    file.rewind().unwrap();
    assert_eq!(file.read_to_end(&mut Vec::new()).unwrap(), 10_000);
}

#[test]
fn dev_null_is_an_empty_source() {
    let mut guest = Guest::new();
    let null = File::open("/dev/null").unwrap();
    guest.connected(Endpoint::Source(null.into()));
    assert_eq!(guest.operations(), [Operation::Shutdown]);
}

#[test]
fn an_endless_source_does_not_keep_the_device_from_its_other_work() {
    let mut guest = Guest::new();
    let zero = File::open("/dev/zero").unwrap();
    guest.connected(Endpoint::Source(zero.into()));
    assert_eq!(guest.data().len(), super::guest::GUEST_WINDOW as usize);
}

fn blocking_pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe().unwrap()
}

#[test]
fn a_blocking_source_does_not_block() {
    let mut guest = Guest::new();
    let (read, write) = blocking_pipe();
    guest.connected(Endpoint::Source(read));
    let mut write = File::from(write);
    write.write_all(&[1; 5000]).unwrap();
    assert_eq!(guest.data().len(), 5000);
    write.write_all(&[1; 1]).unwrap();
    assert_eq!(guest.data().len(), 1);
}

#[test]
fn a_blocking_sink_does_not_block() {
    let mut guest = Guest::new();
    let (read, write) = blocking_pipe();
    let id = guest.connected(Endpoint::Sink(write));
    for _ in 0..3 {
        guest.write(id, &[1; 32 << 10]);
    }
    assert!(!guest.vsock.drained(id));
    let mut read = File::from(read);
    let mut buffer = vec![0; 8192];
    let mut got = 0;
    while got < 96 << 10 {
        got += read.read(&mut buffer).unwrap();
        guest.turn();
    }
    assert!(guest.vsock.drained(id));
}

#[test]
fn a_blocking_socket_does_not_block() {
    let mut guest = Guest::new();
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let id = guest.connected(Endpoint::Sink(ours.into()));
    for _ in 0..120 {
        guest.write(id, &[1; 1024]);
    }
    let mut buffer = vec![0; 8192];
    let mut got = 0;
    while got < 120 << 10 {
        got += theirs.read(&mut buffer).unwrap();
        guest.turn();
    }
    assert!(guest.vsock.drained(id));
}
