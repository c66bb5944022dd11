//! Many connections, one after the other and at once.

use std::io::{Read, Write};

use super::super::packet::{Operation, SHUTDOWN_BOTH};
use super::super::*;
use super::guest::{Guest, PORT, stream};

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    let mut guest = Guest::new();
    for _ in 0..10_000 {
        let (endpoint, host) = stream();
        let id = guest.connected(endpoint);
        guest.shut(id, SHUTDOWN_BOTH);
        assert_eq!(guest.event(), Some(VsockEvent::Closed(id)));
        guest.packets();
        drop(host);
    }
    assert_eq!(guest.vsock.deadline(), None);
    assert!(!guest.vsock.muxer.has_work());
}

#[test]
fn a_hundred_connections_at_once_keep_their_bytes_apart() {
    let mut guest = Guest::new();
    let mut connections: Vec<_> = (0..100u8)
        .map(|number| {
            let (endpoint, host) = stream();
            (number, guest.vsock.connect(PORT, endpoint, &[number]).unwrap(), host)
        })
        .collect();
    guest.packets();
    for (_, id, _) in &connections {
        guest.say(*id, Operation::Response);
    }
    guest.packets();
    for (number, _, host) in &mut connections {
        host.write_all(&[*number; 100]).unwrap();
    }
    for (header, payload) in guest.packets() {
        let (number, _, _) =
            connections.iter().find(|(_, id, _)| id.0 == header.source_port).unwrap();
        assert!(payload.iter().all(|byte| byte == number));
    }
    for (number, id, host) in &mut connections {
        guest.write(*id, &[*number; 10]);
        let mut echo = [0; 10];
        host.read_exact(&mut echo).unwrap();
        assert_eq!(echo, [*number; 10]);
    }
}
