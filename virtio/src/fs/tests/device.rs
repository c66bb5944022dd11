//! The device as a driver sees it: messages in queues.

use std::fs;

use proptest::prelude::*;

use super::super::*;
use super::fixture::attach;
use crate::fuzzing::{BUFFERS, Driver, Piece};
use crate::interrupt::DEVICE_NEEDS_RESET;
use crate::mmio::STATUS;

const HIGH_PRIORITY: usize = 0;
const REQUESTS: usize = 1;
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const INIT: u32 = 26;
const TMPFILE: u32 = 51;
const ANSWER: u64 = BUFFERS + 0x10_0000;

struct Guest {
    driver: Driver,
    server: AttachedFs,
    folder: tempfile::TempDir,
}

impl Guest {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (device, mut server) = attach(folder.path());
        let driver = Driver::start(Box::new(device), 2);
        server.step();
        Self { driver, server, folder }
    }

    fn message(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 40];
        message[0..4].copy_from_slice(&(40 + body.len() as u32).to_le_bytes());
        message[4..8].copy_from_slice(&opcode.to_le_bytes());
        message[8..16].copy_from_slice(&7u64.to_le_bytes());
        message[16..24].copy_from_slice(&node.to_le_bytes());
        message.extend_from_slice(body);
        message
    }

    /// Sends a message, and gives back what was written as an answer.
    fn ask(&mut self, queue: usize, message: &[u8], room: u32) -> Vec<u8> {
        self.driver.write(BUFFERS, message);
        let request = Piece { address: BUFFERS, length: message.len() as u32, writable: false };
        let answer = Piece { address: ANSWER, length: room, writable: true };
        let pieces = [request, answer];
        let used = if room == 0 { &pieces[..1] } else { &pieces[..] };
        self.driver.offer(queue, used).unwrap();
        self.server.step();
        let (_, written) = self.driver.used(queue).unwrap();
        self.driver.read(ANSWER, written as usize)
    }

    fn init(&mut self) -> Vec<u8> {
        let mut body = vec![0; 64];
        body[0..4].copy_from_slice(&7u32.to_le_bytes());
        body[4..8].copy_from_slice(&40u32.to_le_bytes());
        body[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        self.ask(REQUESTS, &Self::message(INIT, 0, &body), 4096)
    }
}

fn error(answer: &[u8]) -> i32 {
    i32::from_le_bytes(answer[4..8].try_into().unwrap())
}

#[test]
fn the_configuration_space_has_the_tag_and_one_request_queue() {
    let (device, _server) = open("cofferdam", FsConfig::default()).unwrap();
    assert!(device.config().starts_with(b"cofferdam\0"));
    assert_eq!(device.config()[36..], [1, 0, 0, 0]);
}

#[test]
fn tags_that_do_not_fit_are_refused() {
    for tag in ["", &"x".repeat(37)] {
        assert!(matches!(open(tag, FsConfig::default()), Err(FsError::Tag)));
    }
}

#[test]
fn a_guest_may_write_a_megabyte_at_a_time() {
    let mut guest = Guest::new();
    let answer = guest.init();
    assert_eq!(error(&answer), 0);
    let max_write = u32::from_le_bytes(answer[36..40].try_into().unwrap());
    assert_eq!(max_write, 1 << 20);
}

#[test]
fn a_look_up_is_answered_with_an_interrupt() {
    let mut guest = Guest::new();
    fs::write(guest.folder.path().join("file"), "123").unwrap();
    guest.init();
    guest.driver.interrupted();
    let answer = guest.ask(REQUESTS, &Guest::message(LOOKUP, 1, b"file\0"), 4096);
    assert_eq!((error(&answer), answer.len()), (0, 16 + 128));
    assert!(guest.driver.interrupted());
}

#[test]
fn forgetting_needs_no_answer() {
    let mut guest = Guest::new();
    guest.init();
    let answer = guest.ask(HIGH_PRIORITY, &Guest::message(FORGET, 1, &1u64.to_le_bytes()), 0);
    assert!(answer.is_empty());
}

#[test]
fn a_file_without_a_name_is_made() {
    let mut guest = Guest::new();
    guest.init();
    let mut body = [0; 16];
    body[0..4].copy_from_slice(&(libc::O_RDWR as u32).to_le_bytes());
    body[4..8].copy_from_slice(&0o600u32.to_le_bytes());
    let answer = guest.ask(REQUESTS, &Guest::message(TMPFILE, 1, &body), 4096);
    assert_eq!((error(&answer), answer.len()), (0, 16 + 128 + 16));
    let refused = guest.ask(REQUESTS, &Guest::message(TMPFILE, 77, &body), 4096);
    assert_eq!((error(&refused), refused.len()), (-libc::EBADF, 16));
    assert!(guest.ask(REQUESTS, &Guest::message(TMPFILE, 1, &body[..8]), 4096).is_empty());
    assert!(guest.ask(REQUESTS, &Guest::message(TMPFILE, 1, &body), 8).is_empty());
}

#[test]
fn what_is_no_request_is_returned_without_harm() {
    let mut guest = Guest::new();
    guest.init();
    let mut long = Guest::message(LOOKUP, 1, b"file\0");
    long[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let unended = Guest::message(LOOKUP, 1, b"file");
    for message in [&b""[..], &[0; 39], &long, &unended, &[0xff; 100]] {
        for room in [0, 1, 15, 16, 4096] {
            if message.is_empty() && room == 0 {
                continue;
            }
            guest.ask(REQUESTS, message, room);
        }
    }
    let attributes = guest.ask(REQUESTS, &Guest::message(GETATTR, 1, &[0; 16]), 4096);
    assert_eq!(error(&attributes), 0);
}

#[test]
fn an_answer_outside_memory_is_not_written() {
    let mut guest = Guest::new();
    guest.driver.write(BUFFERS, &Guest::message(GETATTR, 1, &[0; 16]));
    let request = Piece { address: BUFFERS, length: 56, writable: false };
    let answer = Piece { address: u64::MAX - 8, length: 4096, writable: true };
    guest.driver.offer(REQUESTS, &[request, answer]).unwrap();
    guest.server.step();
    assert_eq!(guest.driver.used(REQUESTS).unwrap().1, 0);
}

#[test]
fn a_broken_queue_stops_the_device() {
    let mut guest = Guest::new();
    guest.driver.jump(REQUESTS, 1000);
    guest.server.step();
    assert_ne!(guest.driver.registered(STATUS) & DEVICE_NEEDS_RESET, 0);
}

#[test]
fn a_server_ends_when_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (_device, server) = attach(folder.path());
    server._stop.write(1).unwrap();
    server.run().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_request_panics(
        requests in proptest::collection::vec(
            (0..60u32, 0..4u64, proptest::collection::vec(any::<u8>(), 0..120), 0..300u32), 0..40)
    ) {
        let mut guest = Guest::new();
        guest.init();
        for (opcode, node, body, room) in requests {
            guest.ask(REQUESTS, &Guest::message(opcode, node, &body), room);
        }
    }
}
