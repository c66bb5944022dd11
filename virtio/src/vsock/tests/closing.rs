//! How connections end, direction by direction.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;

use super::super::packet::{Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::super::*;
use super::guest::{Guest, pipe, stream};

/// The flags of the shutdowns that the guest received.
fn shutdowns(guest: &mut Guest) -> Vec<u32> {
    let packets = guest.packets().into_iter();
    packets
        .filter(|(header, _)| header.operation == Operation::Shutdown)
        .map(|(header, _)| header.flags)
        .collect()
}

#[test]
fn the_end_of_the_hosts_input_leaves_the_guests_output_open() {
    let mut guest = Guest::new();
    let (endpoint, mut host) = stream();
    let id = guest.connected(endpoint);
    host.write_all(b"x").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    let packets = guest.packets();
    let operations: Vec<_> = packets.iter().map(|packet| packet.0.operation).collect();
    assert_eq!(operations, [Operation::Data, Operation::Shutdown]);
    assert_eq!(packets[1].0.flags, SHUTDOWN_SEND);
    guest.write(id, b"still here");
    guest.shut(id, SHUTDOWN_SEND);
    let mut output = String::new();
    host.read_to_string(&mut output).unwrap();
    assert_eq!(output, "still here");
}

#[test]
fn the_end_of_the_guests_output_leaves_the_hosts_input_open() {
    let mut guest = Guest::new();
    let (endpoint, mut host) = stream();
    let id = guest.connected(endpoint);
    guest.write(id, b"bye");
    guest.shut(id, SHUTDOWN_SEND);
    let mut output = String::new();
    host.read_to_string(&mut output).unwrap();
    assert_eq!(output, "bye");
    host.write_all(b"still here").unwrap();
    assert_eq!(guest.data(), b"still here");
    assert_eq!(guest.event(), None);
}

#[test]
fn both_ends_close_the_connection() {
    let mut guest = Guest::new();
    let (endpoint, host) = stream();
    let id = guest.connected(endpoint);
    host.shutdown(Shutdown::Write).unwrap();
    guest.shut(id, SHUTDOWN_SEND);
    assert_eq!(shutdowns(&mut guest), [SHUTDOWN_SEND, SHUTDOWN_BOTH]);
    guest.say(id, Operation::Reset);
    assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
}

#[test]
fn a_guest_that_does_not_confirm_the_end_is_not_waited_for() {
    let mut guest = Guest::new();
    let (endpoint, host) = stream();
    let id = guest.connected(endpoint);
    drop(host);
    assert_eq!(shutdowns(&mut guest).last(), Some(&SHUTDOWN_BOTH));
    let deadline = guest.vsock.deadline().unwrap();
    guest.vsock.expire(deadline);
    assert_eq!(guest.operations(), [Operation::Reset]);
    assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
}

#[test]
fn a_host_that_leaves_closes_both_directions() {
    let mut guest = Guest::new();
    let (endpoint, mut host) = stream();
    let id = guest.connected(endpoint);
    host.write_all(b"last words").unwrap();
    drop(host);
    let packets = guest.packets();
    assert_eq!(packets[0].1, b"last words");
    assert_eq!(packets.last().unwrap().0.flags, SHUTDOWN_BOTH);
    guest.say(id, Operation::Reset);
    assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
}

#[test]
fn a_host_that_leaves_after_its_end_closes_the_rest() {
    let mut guest = Guest::new();
    let (endpoint, host) = stream();
    let _id = guest.connected(endpoint);
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(shutdowns(&mut guest), [SHUTDOWN_SEND]);
    drop(host);
    assert_eq!(shutdowns(&mut guest).last(), Some(&SHUTDOWN_BOTH));
}

#[test]
fn a_guest_that_closes_gets_a_reset_and_its_output_is_written() {
    let mut guest = Guest::new();
    let (endpoint, mut host) = stream();
    let id = guest.connected(endpoint);
    guest.write(id, b"out");
    guest.shut(id, SHUTDOWN_BOTH);
    assert_eq!(guest.operations(), [Operation::Reset]);
    assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
    let mut output = String::new();
    host.read_to_string(&mut output).unwrap();
    assert_eq!(output, "out");
}

#[test]
fn a_guest_that_closes_step_by_step_gets_a_reset() {
    let mut guest = Guest::new();
    let (endpoint, _host) = stream();
    let id = guest.connected(endpoint);
    guest.shut(id, SHUTDOWN_SEND);
    guest.shut(id, SHUTDOWN_RECEIVE);
    assert!(guest.operations().contains(&Operation::Reset));
    assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
}

#[test]
fn output_of_a_guest_that_left_is_written_when_the_host_takes_it() {
    let mut guest = Guest::new();
    let (read, write) = pipe();
    let id = guest.connected(Endpoint::Sink(write));
    let output = vec![b'x'; 60 << 10];
    guest.write(id, &output);
    guest.write(id, &output);
    guest.say(id, Operation::Reset);
    assert!(!guest.vsock.drained(id));
    assert_eq!(guest.event(), None);
    let mut host = File::from(read);
    let mut seen = 0;
    let mut buffer = [0; 64 << 10];
    while seen < 2 * output.len() {
        seen += host.read(&mut buffer).unwrap();
        guest.turn();
    }
    assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
    assert_eq!(host.read(&mut buffer).unwrap(), 0, "the descriptor is closed");
}

#[test]
fn the_end_of_a_source_is_told_and_the_connection_waits_for_the_guest() {
    let mut guest = Guest::new();
    let (read, write) = pipe();
    let id = guest.connected(Endpoint::Source(read));
    File::from(write).write_all(b"input").unwrap();
    let packets = guest.packets();
    assert_eq!(packets[0].1, b"input");
    assert_eq!(packets[1].0.flags, SHUTDOWN_SEND);
    assert_eq!(packets.len(), 2);
    guest.shut(id, SHUTDOWN_BOTH);
    assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
}

#[test]
fn a_guest_that_wants_no_input_closes_the_source() {
    let mut guest = Guest::new();
    let (read, write) = pipe();
    let id = guest.connected(Endpoint::Source(read));
    guest.shut(id, SHUTDOWN_RECEIVE);
    let error = File::from(write).write_all(b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    guest.say(id, Operation::Reset);
    assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
}

#[test]
fn the_end_of_a_sinks_output_closes_the_descriptor() {
    let mut guest = Guest::new();
    let (read, write) = pipe();
    let id = guest.connected(Endpoint::Sink(write));
    guest.write(id, b"output");
    guest.shut(id, SHUTDOWN_SEND);
    let mut output = String::new();
    File::from(read).read_to_string(&mut output).unwrap();
    assert_eq!(output, "output");
    guest.say(id, Operation::Reset);
    assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
}

#[test]
fn a_reader_that_went_away_stops_the_writer_and_not_the_credit() {
    let mut guest = Guest::new();
    let (read, write) = pipe();
    let id = guest.connected(Endpoint::Sink(write));
    drop(read);
    guest.write(id, b"output");
    let packets = guest.packets();
    assert_eq!(packets[0].0.operation, Operation::Shutdown);
    assert_eq!(packets[0].0.flags & SHUTDOWN_RECEIVE, SHUTDOWN_RECEIVE);
    guest.write(id, &[b'x'; 60 << 10]);
    guest.write(id, &[b'x'; 60 << 10]);
    guest.write(id, &[b'x'; 60 << 10]);
    assert!(guest.vsock.drained(id));
    assert!(guest.operations().iter().all(|operation| *operation == Operation::CreditUpdate));
}

#[test]
fn closing_a_connection_resets_it_and_closes_the_descriptor() {
    let mut guest = Guest::new();
    let (endpoint, mut host) = stream();
    let id = guest.connected(endpoint);
    guest.vsock.close(id);
    assert_eq!(guest.operations(), [Operation::Reset]);
    assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
    assert_eq!(host.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_terminal_that_hangs_up_closes_both_directions() {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    let mut guest = Guest::new();
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
    let mut mode = rustix::termios::tcgetattr(&slave).unwrap();
    mode.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &mode).unwrap();
    let id = guest.connected(Endpoint::Terminal(slave));
    let mut master = File::from(master);
    master.write_all(b"typed").unwrap();
    assert_eq!(guest.wait_for_data(5), b"typed");
    guest.write(id, b"shown");
    let mut shown = [0; 5];
    master.read_exact(&mut shown).unwrap();
    assert_eq!(&shown, b"shown");
    drop(master);
    assert_eq!(shutdowns(&mut guest).last(), Some(&SHUTDOWN_BOTH));
}

#[test]
fn a_lifeline_that_ends_is_closed_in_time() {
    let mut guest = Guest::new();
    let port = cofferdam_protocol::bounds::LIFELINE_PORT;
    guest.send(guest.header(port, Operation::Request), &[]);
    guest.shut(ConnectionId(port), SHUTDOWN_SEND);
    let deadline = guest.vsock.deadline().unwrap();
    guest.vsock.expire(deadline);
    assert_eq!(guest.event(), Some(VsockEvent::LifelineClosed));
    assert_eq!(guest.vsock.deadline(), None);
}
