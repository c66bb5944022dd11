use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use super::*;
use crate::fuzzing::{BUFFERS, Driver, MEMORY_BYTES, Piece, QUEUE_SIZE};
use crate::interrupt::DEVICE_NEEDS_RESET;
use crate::mmio::STATUS;
use crate::poll::Events;

const OWNER: u32 = 3;
const SECTORS: u64 = 64;
const HEADER: u64 = BUFFERS;
const DATA: u64 = BUFFERS + 0x1000;
const ANSWER: u64 = BUFFERS + 0x8000;
const NOTHING: u8 = 0xee;

const READ: u32 = 0;
const WRITE: u32 = 1;
const SYNC: u32 = 4;
const ID: u32 = 8;
const DISCARDED: u32 = 11;
const ZEROES: u32 = 13;

/// A guest with a disk of [`SECTORS`] whose bytes are the numbers of their sectors.
struct Guest {
    driver: Driver,
    blk: Blk,
    poller: Arc<Poller>,
    disk: File,
}

impl Guest {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(read_only: bool) -> Self {
        let disk = tempfile::tempfile().unwrap();
        for sector in 0..SECTORS {
            disk.write_all_at(&[sector as u8; 512], sector * 512).unwrap();
        }
        let config = BlkConfig { bytes: SECTORS * 512 + 100, block_bytes: 4096, read_only };
        let poller = Arc::new(Poller::open().unwrap());
        let file = disk.try_clone().unwrap();
        let (device, blk) = open(Arc::clone(&poller), OWNER, file, config).unwrap();
        let features = device.features() & !FEATURE_INDIRECT;
        let driver = Driver::start_with(Box::new(device), 1, features);
        let mut guest = Self { driver, blk, poller, disk };
        guest.turn();
        guest
    }

    fn turn(&mut self) {
        let mut events = Events::new();
        while let ready @ [_, ..] = self.poller.wait(&mut events, Some(Duration::ZERO)).unwrap() {
            ready.iter().for_each(|(token, _)| self.blk.handle(*token));
        }
    }

    /// Asks for something with data in pieces of these lengths from [`DATA`] on; what the device
    /// answers, and how much it says to have written.
    fn ask(&mut self, kind: u32, sector: u64, lengths: &[u32], writable: bool) -> (u8, u32) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.driver.write(HEADER, &header);
        self.driver.write(ANSWER, &[NOTHING]);
        let mut pieces = vec![Piece { address: HEADER, length: 16, writable: false }];
        let mut address = DATA;
        for &length in lengths {
            pieces.push(Piece { address, length, writable });
            address += u64::from(length);
        }
        pieces.push(Piece { address: ANSWER, length: 1, writable: true });
        self.offer(&pieces)
    }

    fn offer(&mut self, pieces: &[Piece]) -> (u8, u32) {
        self.driver.offer(0, pieces).unwrap();
        self.turn();
        let (_, written) = self.driver.used(0).unwrap();
        (self.driver.read(ANSWER, 1)[0], written)
    }

    fn read(&mut self, sector: u64, lengths: &[u32]) -> (u8, u32) {
        self.ask(READ, sector, lengths, true)
    }

    fn write(&mut self, sector: u64, lengths: &[u32]) -> (u8, u32) {
        self.ask(WRITE, sector, lengths, false)
    }

    fn clear(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        let mut range = [0; 16];
        range[..8].copy_from_slice(&sector.to_le_bytes());
        range[8..12].copy_from_slice(&sectors.to_le_bytes());
        range[12..].copy_from_slice(&flags.to_le_bytes());
        self.driver.write(DATA, &range);
        self.ask(kind, 0, &[16], false).0
    }

    fn on_disk(&self, sector: u64) -> Vec<u8> {
        let mut content = vec![0; 512];
        self.disk.read_exact_at(&mut content, sector * 512).unwrap();
        content
    }
}

#[test]
fn what_is_on_the_disk_is_read_however_the_buffers_are_cut() {
    for lengths in [&[1024][..], &[512, 512], &[1, 1000, 23]] {
        let mut guest = Guest::new();
        assert_eq!(guest.read(5, lengths), (request::OK, 1025), "{lengths:?}");
        let came = guest.driver.read(DATA, 1024);
        assert!(came[..512].iter().all(|byte| *byte == 5), "{lengths:?}");
        assert!(came[512..].iter().all(|byte| *byte == 6), "{lengths:?}");
        assert!(guest.driver.interrupted());
    }
}

#[test]
fn what_is_written_is_on_the_disk_and_nowhere_else() {
    let mut guest = Guest::new();
    guest.driver.write(DATA, &[0xaa; 1024]);
    assert_eq!(guest.write(62, &[512, 512]), (request::OK, 1));
    assert_eq!(guest.on_disk(61), [61; 512]);
    assert_eq!((guest.on_disk(62), guest.on_disk(63)), (vec![0xaa; 512], vec![0xaa; 512]));
    assert_eq!(guest.ask(SYNC, 0, &[], false).0, request::OK);
}

#[test]
fn the_disk_ends_where_its_last_whole_sector_does() {
    let mut guest = Guest::new();
    let failed = (1, 513);
    assert_eq!(guest.read(63, &[512]), (request::OK, 513));
    assert_eq!(guest.read(64, &[512]), failed);
    assert_eq!(guest.read(63, &[1024]), (1, 1025));
    assert_eq!(guest.read(u64::MAX, &[512]), failed);
    assert_eq!(guest.read(u64::MAX / 512 + 1, &[512]), failed);
    assert_eq!(guest.write(64, &[512]).0, 1);
    assert_eq!(guest.disk.metadata().unwrap().len(), SECTORS * 512);
}

#[test]
fn a_part_of_a_sector_is_refused() {
    let mut guest = Guest::new();
    assert_eq!(guest.read(0, &[511]).0, 1);
    assert_eq!(guest.write(0, &[513]).0, 1);
    assert_eq!(guest.on_disk(0), [0; 512]);
}

#[test]
fn a_disk_that_is_only_read_says_so_and_keeps_its_content() {
    let mut guest = Guest::with(true);
    assert_eq!(BlkConfig { bytes: 0, block_bytes: 512, read_only: true }.features() & RO, RO);
    guest.driver.write(DATA, &[0xaa; 512]);
    assert_eq!(guest.write(1, &[512]).0, 1);
    assert_eq!(guest.clear(ZEROES, 1, 1, 0), 1);
    assert_eq!(guest.clear(DISCARDED, 1, 1, 0), 1);
    assert_eq!(guest.on_disk(1), [1; 512]);
    assert_eq!(guest.read(1, &[512]).0, request::OK);
}

#[test]
fn what_is_discarded_reads_as_zeros_and_what_is_beside_it_stays() {
    let mut guest = Guest::new();
    for (kind, sector, flags) in [(DISCARDED, 8, 0), (ZEROES, 24, 1)] {
        assert_eq!(guest.clear(kind, sector, 8, flags), request::OK, "{kind}");
        assert_eq!(guest.on_disk(sector + 7), [0; 512]);
        assert_eq!(guest.on_disk(sector + 8), [sector as u8 + 8; 512]);
    }
    for (sector, sectors, flags) in [(63, 2, 0), (0, MAX_DISCARD_SECTORS + 1, 0), (u64::MAX, 1, 0)]
    {
        assert_eq!(guest.clear(DISCARDED, sector, sectors, flags), 1);
    }
    // A flag that is not one of discarding.
    assert_eq!(guest.clear(DISCARDED, 40, 1, 1), 2);
    assert_eq!(guest.on_disk(40), [40; 512]);
}

#[test]
fn the_disk_has_a_name_and_knows_no_other_requests() {
    let mut guest = Guest::new();
    assert_eq!(guest.ask(ID, 0, &[20], true).0, request::OK);
    assert!(guest.driver.read(DATA, 20).starts_with(b"cofferdam-disk\0"));
    assert_eq!(guest.ask(ID, 0, &[19], true).0, 1);
    assert_eq!(guest.ask(99, 0, &[], false).0, 2);
}

#[test]
fn a_chain_that_is_no_request_comes_back_without_an_answer() {
    let mut guest = Guest::new();
    guest.driver.write(ANSWER, &[NOTHING]);
    let piece = |address, length, writable| Piece { address, length, writable };
    let answer = piece(ANSWER, 1, true);
    let chains = [
        // Too short a header; no room for an answer; data, header and answer beyond memory.
        vec![piece(HEADER, 15, false), answer],
        vec![piece(HEADER, 16, false)],
        vec![piece(HEADER, 16, false), piece(MEMORY_BYTES as u64 - 1, 512, true), answer],
        vec![piece(MEMORY_BYTES as u64 - 1, 16, false), answer],
        vec![piece(HEADER, 16, false), piece(MEMORY_BYTES as u64, 1, true)],
    ];
    for chain in chains {
        assert_eq!(guest.offer(&chain), (NOTHING, 0), "{chain:?}");
    }
    assert_eq!(guest.read(1, &[512]).0, request::OK);
}

#[test]
fn a_disk_that_fails_is_said_and_the_next_request_is_served() {
    let mut guest = Guest::new();
    // Shorter than it was when it was opened.
    guest.disk.set_len(512).unwrap();
    assert_eq!(guest.read(9, &[512]).0, 1);
    assert_eq!(guest.read(0, &[512]).0, request::OK);
}

#[test]
fn more_requests_than_one_go_has_are_all_served() {
    let mut guest = Guest::new();
    let header = [0; 16];
    guest.driver.write(HEADER, &header);
    for round in 0..20 {
        let count = QUEUE_SIZE / 3;
        for _ in 0..count {
            let data = Piece { address: DATA, length: 512, writable: true };
            let head = Piece { address: HEADER, length: 16, writable: false };
            let answer = Piece { address: ANSWER, length: 1, writable: true };
            guest.driver.offer(0, &[head, data, answer]).unwrap();
        }
        guest.turn();
        let used = std::iter::from_fn(|| guest.driver.used(0)).count();
        assert_eq!(used, usize::from(count), "{round}");
    }
}

#[test]
fn a_broken_queue_stops_the_device() {
    let mut guest = Guest::new();
    guest.driver.jump(0, QUEUE_SIZE + 1);
    guest.turn();
    assert_ne!(guest.driver.registered(STATUS) & DEVICE_NEEDS_RESET, 0);
}

#[test]
fn the_driver_reads_how_large_the_disk_is_and_what_may_be_asked_for() {
    let config = BlkConfig { bytes: SECTORS * 512 + 100, block_bytes: 4096, read_only: false };
    let space = config.encode();
    let word = |at: usize| u32::from_le_bytes(space[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(4)), (64, 0));
    assert_eq!((word(8), word(12), word(20)), (64 << 10, 126, 4096));
    assert_eq!((word(36), word(40), word(44)), (2 << 20, 1, 8));
    assert_eq!((word(48), word(52), word(56)), (2 << 20, 1, 1));
}

#[test]
fn a_device_that_is_closed_serves_nobody() {
    let Guest { mut driver, blk, poller, .. } = Guest::new();
    blk.close();
    driver.write(HEADER, &[0; 16]);
    let head = Piece { address: HEADER, length: 16, writable: false };
    driver.offer(0, &[head, Piece { address: ANSWER, length: 1, writable: true }]).unwrap();
    assert_eq!(poller.wait(&mut Events::new(), Some(Duration::ZERO)).unwrap(), []);
    assert!(driver.used(0).is_none());
}
