//! A TCP connection of the host's: its peer sees an end where the guest made one, and else a reset.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use super::super::packet::{Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_SEND};
use super::super::*;
use super::guest::Guest;

/// An endpoint, and its peer.
fn connection() -> (Endpoint, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // Those that it takes have it too.
    set_socket_linger(&listener, Some(Duration::ZERO)).unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Endpoint::Tcp(ours.into()), peer)
}

/// What the peer reads up to the end, or how it ends otherwise.
fn rest(mut peer: TcpStream) -> Result<Vec<u8>, ErrorKind> {
    let mut all = Vec::new();
    peer.read_to_end(&mut all).map(|_| all).map_err(|error| error.kind())
}

#[test]
fn each_direction_ends_by_itself() {
    let mut guest = Guest::new();
    let (endpoint, mut peer) = connection();
    let id = guest.connected(endpoint);
    peer.write_all(b"asked").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.wait_for_data(5), b"asked");
    guest.write(id, b"answered");
    guest.shut(id, SHUTDOWN_SEND);
    guest.shut(id, SHUTDOWN_BOTH);
    assert_eq!(rest(peer).unwrap(), b"answered");
}

#[test]
fn a_guest_that_goes_without_an_end_resets_it() {
    for leave in [Operation::Shutdown, Operation::Reset] {
        let mut guest = Guest::new();
        let (endpoint, peer) = connection();
        let id = guest.connected(endpoint);
        guest.write(id, b"begun");
        let header = Header { flags: SHUTDOWN_BOTH, ..guest.header(id.0, leave) };
        guest.send(header, &[]);
        assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
        assert_eq!(rest(peer), Err(ErrorKind::ConnectionReset));
    }
}

#[test]
fn a_guest_that_does_not_take_it_resets_it() {
    let mut guest = Guest::new();
    let (endpoint, peer) = connection();
    let id = guest.vsock.connect(1025, endpoint, b"").unwrap();
    guest.turn();
    guest.say(id, Operation::Reset);
    assert_eq!(guest.event(), Some(VsockEvent::Refused(id)));
    assert_eq!(rest(peer), Err(ErrorKind::ConnectionReset));
}

#[test]
fn what_was_ended_is_written_after_the_guest_has_gone() {
    let mut guest = Guest::new();
    let (endpoint, peer) = connection();
    let id = guest.connected(endpoint);
    // More than a socket that nobody reads from has room for.
    let output = vec![b'x'; 60 << 10];
    let mut sent = 0;
    while guest.vsock.drained(id) {
        guest.write(id, &output);
        sent += output.len();
    }
    guest.shut(id, SHUTDOWN_SEND);
    guest.shut(id, SHUTDOWN_BOTH);
    assert_eq!(guest.event(), None);
    let reader = std::thread::spawn(move || rest(peer));
    while guest.event() != Some(VsockEvent::Closed(id)) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(reader.join().unwrap().unwrap().len(), sent);
}

#[test]
fn one_that_is_given_up_half_written_is_reset() {
    let mut guest = Guest::new();
    let (endpoint, peer) = connection();
    let id = guest.connected(endpoint);
    let output = vec![b'x'; 60 << 10];
    while guest.vsock.drained(id) {
        guest.write(id, &output);
    }
    guest.shut(id, SHUTDOWN_SEND);
    guest.vsock.close(id);
    assert_eq!(rest(peer), Err(ErrorKind::ConnectionReset));
}

#[test]
fn a_peer_that_resets_it_closes_both_directions() {
    let mut guest = Guest::new();
    let (endpoint, peer) = connection();
    let id = guest.connected(endpoint);
    guest.write(id, b"unread");
    // With what was not read, the kernel resets it.
    drop(peer);
    let flags = guest.packets().into_iter().map(|(header, _)| header.flags).next_back();
    assert_eq!(flags, Some(SHUTDOWN_BOTH));
}
