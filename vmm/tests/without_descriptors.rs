//! A monitor whose guest has every descriptor: whoever connects is turned away, and not left waiting.
//! In a program of its own, since the limit is the process's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Read as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use cofferdam_virtio::poll::{Events, Poller};
use cofferdam_vmm::devices::control::Control;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that there may be: more than this program has in the beginning.
const MOST: u64 = 64;

#[test]
fn a_client_of_a_monitor_without_descriptors_is_turned_away_and_later_ones_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let poller = Arc::new(Poller::open().unwrap());
    let mut control = Control::open(poller.clone(), 7, listener.into()).unwrap();
    let mut turn = || {
        let mut events = Events::new();
        let ready = poller.wait(&mut events, Some(Duration::ZERO)).unwrap().to_vec();
        ready.iter().for_each(|(token, _)| drop(control.handle(*token)));
        ready.len()
    };

    let mut clients = [(); 2].map(|()| UnixStream::connect(&path).unwrap());
    let most = Rlimit { current: Some(MOST), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, most).unwrap();
    let mut all = Vec::new();
    let refusal = loop {
        match rustix::io::dup(&clients[0]) {
            Ok(descriptor) => all.push(descriptor),
            Err(error) => break error,
        }
    };
    assert_eq!(refusal, Errno::MFILE);
    for client in &mut clients {
        assert_eq!(turn(), 1);
        client.set_nonblocking(true).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    assert_eq!(turn(), 0);

    all.clear();
    let mut client = UnixStream::connect(&path).unwrap();
    assert_eq!(turn(), 1);
    client.set_nonblocking(true).unwrap();
    let waits = client.read(&mut [0]).unwrap_err().kind();
    assert_eq!(waits, std::io::ErrorKind::WouldBlock);
}
