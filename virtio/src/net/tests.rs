mod pairs;

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::*;
use crate::fuzzing::{BUFFERS, Driver, MEMORY_BYTES, Piece, QUEUE_SIZE};
use crate::interrupt::DEVICE_NEEDS_RESET;
use crate::mmio::STATUS;
use crate::poll::Events;
use header::{BUFFERS_OFFSET, HEADER_BYTES};

const OWNER: u32 = 7;
const CONFIG: NetConfig = NetConfig { mac: [2, 0, 0, 0, 0, 9], mtu: 1500, uncut_udp: false };
/// Longer than any buffer of a driver of mergeable ones, so that frames lie in two.
const FRAME: usize = 1400;

/// A guest whose tap's queues are ends of sockets that keep frames apart, as a tap does.
struct Guest {
    driver: Driver,
    net: Net,
    poller: Arc<Poller>,
    /// The host's end of each of the tap's queues.
    hosts: Vec<UnixDatagram>,
}

impl Guest {
    /// With one pair of queues.
    fn new(features: u64) -> Self {
        Self::with_pairs(1, features)
    }

    fn with_pairs(pairs: usize, features: u64) -> Self {
        let (tap, hosts): (Vec<OwnedFd>, Vec<_>) = (0..pairs)
            .map(|_| {
                let (tap, host) = UnixDatagram::pair().unwrap();
                tap.set_nonblocking(true).unwrap();
                host.set_nonblocking(true).unwrap();
                (OwnedFd::from(tap), host)
            })
            .unzip();
        let poller = Arc::new(Poller::open().unwrap());
        let (device, net) = open(Arc::clone(&poller), OWNER, tap, CONFIG).unwrap();
        let queues = device.queue_sizes().len() as u16;
        let driver = Driver::start_with(Box::new(device), queues, features);
        let mut guest = Self { driver, net, poller, hosts };
        guest.turn();
        guest
    }

    fn turn(&mut self) {
        let mut events = Events::new();
        while let ready @ [_, ..] = self.poller.wait(&mut events, Some(Duration::ZERO)).unwrap() {
            for (token, readiness) in ready {
                self.net.handle(*token, *readiness);
            }
        }
    }

    /// Offers receive buffers of this length, one behind the other.
    fn offer(&mut self, count: u64, length: u32) {
        self.offer_to(0, count, length);
    }

    /// The same to a pair of queues.
    fn offer_to(&mut self, pair: usize, count: u64, length: u32) {
        for index in 0..count {
            let address = BUFFERS + index * u64::from(length);
            self.driver.offer(2 * pair, &[Piece { address, length, writable: true }]).unwrap();
        }
        self.turn();
    }

    fn host_sends(&mut self, frame: &[u8]) {
        self.host_sends_by(0, frame);
    }

    /// The same by one of the tap's queues.
    fn host_sends_by(&mut self, queue: usize, frame: &[u8]) {
        self.hosts[queue].send(&[&[0; HEADER_BYTES], frame].concat()).unwrap();
        self.turn();
    }

    /// How many frames have come by a pair of queues since the last call.
    fn came_by(&mut self, pair: usize) -> usize {
        std::iter::from_fn(|| self.driver.used(2 * pair)).count()
    }

    /// Asks something of the device by its last queue; what it answers.
    fn ask(&mut self, command: &[u8]) -> u8 {
        const NOTHING: u8 = 0xee;
        let control = 2 * self.hosts.len();
        self.driver.write(BUFFERS, command);
        self.driver.write(BUFFERS + 100, &[NOTHING]);
        // As Linux cuts it.
        let (class, rest) = command.split_at(2);
        let readable =
            |address, length: usize| Piece { address, length: length as u32, writable: false };
        let answer = Piece { address: BUFFERS + 100, length: 1, writable: true };
        let pieces = [readable(BUFFERS, class.len()), readable(BUFFERS + 2, rest.len()), answer];
        self.driver.offer(control, &pieces).unwrap();
        self.turn();
        assert_eq!(self.driver.used(control).unwrap().1, 1);
        self.driver.read(BUFFERS + 100, 1)[0]
    }

    /// Sends what is written from [`BUFFERS`] on, in pieces of these lengths.
    fn send(&mut self, lengths: &[u32]) {
        let mut address = BUFFERS;
        let mut pieces = Vec::new();
        for &length in lengths {
            pieces.push(Piece { address, length, writable: false });
            address += u64::from(length);
        }
        self.driver.offer(1, &pieces).unwrap();
        self.turn();
    }

    fn host_hears(&self) -> Option<Vec<u8>> {
        self.host_hears_by(0)
    }

    /// The same by one of the tap's queues.
    fn host_hears_by(&self, queue: usize) -> Option<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        match self.hosts[queue].recv(&mut frame) {
            Ok(length) => Some(frame[..length].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 % 251) as u8).collect()
}

#[test]
fn a_frame_goes_out_however_it_is_cut_into_pieces() {
    let frame = content(FRAME);
    for lengths in [&[1412][..], &[12, 1400], &[5, 7, 1, 1399], &[0, 20, 1392]] {
        let mut guest = Guest::new(0);
        guest.driver.write(BUFFERS, &[0; HEADER_BYTES]);
        guest.driver.write(BUFFERS + HEADER_BYTES as u64, &frame);
        guest.send(lengths);
        let heard = guest.host_hears().unwrap();
        assert_eq!(heard[HEADER_BYTES..], frame, "{lengths:?}");
        assert_eq!(guest.driver.used(1).unwrap().1, 0);
        assert!(guest.driver.interrupted());
    }
}

#[test]
fn what_is_left_to_do_goes_out_with_the_frame_and_nothing_else() {
    let mut guest = Guest::new(features::CSUM);
    // Checksum at 34 + 16, and a number of buffers that no driver sets.
    let header = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 9, 9];
    guest.driver.write(BUFFERS, &header);
    guest.send(&[12, 60]);
    assert_eq!(guest.host_hears().unwrap()[..HEADER_BYTES], [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]);
}

#[test]
fn a_frame_that_is_not_right_is_lost_and_the_next_is_not() {
    let mut guest = Guest::new(0);
    guest.driver.write(BUFFERS, &[0; 200]);
    // No header, no frame, too short a frame, a checksum that was not agreed.
    for lengths in [&[4][..], &[12], &[12, 13]] {
        guest.send(lengths);
    }
    guest.driver.write(BUFFERS, &[1]);
    guest.send(&[12, 60]);
    let beyond = Piece { address: MEMORY_BYTES as u64 - 1, length: 60, writable: false };
    let head = Piece { address: BUFFERS + 100, length: 12, writable: false };
    guest.driver.offer(1, &[head, beyond]).unwrap();
    guest.turn();
    assert_eq!(guest.host_hears(), None);
    assert_eq!(std::iter::from_fn(|| guest.driver.used(1)).count(), 5);
    guest.driver.write(BUFFERS, &[0]);
    guest.send(&[12, 60]);
    assert_eq!(guest.host_hears().unwrap().len(), 72);
}

#[test]
fn a_frame_comes_into_one_buffer() {
    let mut guest = Guest::new(0);
    guest.offer(2, 1600);
    let frame = content(FRAME);
    guest.host_sends(&frame);
    let (_, written) = guest.driver.used(0).unwrap();
    assert_eq!(written as usize, HEADER_BYTES + FRAME);
    assert!(guest.driver.interrupted());
    let came = guest.driver.read(BUFFERS, HEADER_BYTES + FRAME);
    assert_eq!(came[..HEADER_BYTES], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(came[HEADER_BYTES..], frame);
}

#[test]
fn a_frame_comes_into_several_buffers_that_the_driver_sees_at_once() {
    let mut guest = Guest::new(features::MERGEABLE);
    guest.offer(5, 600);
    let frame = content(FRAME);
    guest.host_sends(&frame);
    let used: Vec<u32> =
        std::iter::from_fn(|| guest.driver.used(0)).map(|(_, written)| written).collect();
    assert_eq!(used, [600, 600, 212]);
    let came = guest.driver.read(BUFFERS, HEADER_BYTES + FRAME);
    assert_eq!(came[BUFFERS_OFFSET..HEADER_BYTES], [3, 0]);
    assert_eq!(came[HEADER_BYTES..], frame);
    // The rest waits for the next frame, which needs more than is left.
    guest.host_sends(&content(100));
    assert!(guest.driver.used(0).is_none());
    guest.offer(2, 600);
    assert_eq!(guest.driver.used(0).unwrap().1, 112);
}

#[test]
fn a_short_frame_that_comes_alone_interrupts_at_once_and_several_do_not() {
    let mut guest = Guest::new(0);
    guest.offer(3, 1600);
    guest.host_sends(&content(60));
    assert!(guest.driver.interrupted());
    assert_eq!(guest.driver.pulses(), 1);
    guest.driver.used(0).unwrap();
    for _ in 0..2 {
        guest.hosts[0].send(&[0; 80]).unwrap();
    }
    guest.turn();
    assert!(guest.driver.interrupted());
    assert_eq!(guest.driver.pulses(), 1);
}

#[test]
fn frames_wait_until_there_are_buffers() {
    let mut guest = Guest::new(0);
    for _ in 0..3 {
        guest.host_sends(&content(FRAME));
    }
    assert!(guest.driver.used(0).is_none());
    guest.offer(3, 1600);
    assert_eq!(std::iter::from_fn(|| guest.driver.used(0)).count(), 3);
}

#[test]
fn more_frames_than_one_go_has_come_one_after_the_other() {
    let mut guest = Guest::new(0);
    for round in 0..20_u8 {
        guest.offer(QUEUE_SIZE.into(), 1600);
        for _ in 0..QUEUE_SIZE {
            guest.host_sends(&[round; 60]);
        }
        assert_eq!(std::iter::from_fn(|| guest.driver.used(0)).count(), usize::from(QUEUE_SIZE));
    }
}

#[test]
fn a_buffer_that_is_of_no_use_comes_back_empty() {
    let mut guest = Guest::new(0);
    guest.host_sends(&content(FRAME));
    guest.offer(1, 100);
    assert_eq!(guest.driver.used(0).unwrap().1, 0);
    let beyond = Piece { address: MEMORY_BYTES as u64 - 1, length: 1600, writable: true };
    guest.driver.offer(0, &[beyond]).unwrap();
    guest.turn();
    assert_eq!(guest.driver.used(0).unwrap().1, 0);
    guest.offer(1, 1600);
    assert_eq!(guest.driver.used(0).unwrap().1 as usize, HEADER_BYTES + FRAME);
}

#[test]
fn a_notification_is_heard_without_being_read() {
    let mut guest = Guest::new(0);
    guest.driver.write(BUFFERS, &[0; 80]);
    let before = guest.driver.unread_notifications(1);
    for _ in 0..3 {
        guest.send(&[12, 60]);
        assert!(guest.host_hears().is_some());
    }
    assert_eq!((before, guest.driver.unread_notifications(1)), (0, 3));
}

#[test]
fn a_broken_queue_stops_the_device() {
    for queue in [0, 1] {
        let mut guest = Guest::new(0);
        guest.driver.jump(queue, QUEUE_SIZE + 1);
        // Nothing is received before there is something.
        guest.host_sends(&content(60));
        assert_ne!(guest.driver.registered(STATUS) & DEVICE_NEEDS_RESET, 0, "{queue}");
    }
}

#[test]
fn the_driver_reads_its_address_and_how_long_packets_may_be() {
    let guest = Guest::new(0);
    let mut space = [0; 12];
    for (index, byte) in space.iter_mut().enumerate() {
        *byte = guest.driver.registered(0x100 + index as u64) as u8;
    }
    assert_eq!(space, [2, 0, 0, 0, 0, 9, 1, 0, 1, 0, 0xdc, 5]);
}

#[test]
fn a_device_that_is_closed_lets_go_of_its_tap_and_a_driver_that_goes_on_is_not_served() {
    let Guest { mut driver, net, poller, hosts } = Guest::new(0);
    net.close();
    let refused = hosts[0].send(&[0; 60]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let address = BUFFERS;
    driver.offer(1, &[Piece { address, length: 80, writable: false }]).unwrap();
    let mut events = Events::new();
    assert_eq!(poller.wait(&mut events, Some(Duration::ZERO)).unwrap(), []);
    assert!(driver.used(1).is_none());
}
