//! What the fuzz targets call, and what the same properties are tested with in normal tests: a
//! driver to play, and functions from arbitrary bytes to "it did not panic, hang or grow".
//!
//! Not part of a build without the feature `fuzzing`.
#![allow(clippy::unwrap_used, reason = "a broken fixture is to be seen at once")]

mod bridge;
mod driver;
mod script;

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::blk::{self, BlkConfig};
use crate::device::{Activation, DeviceType, FEATURE_VERSION_1, VirtioDevice};
use crate::fs;
use crate::memory::{GuestAddress, GuestRam};
use crate::mmio::{MmioTransport, RegisterPage};
use crate::net::{self, Net, NetConfig};
use crate::poll::{Events, Poller};
use crate::saved::{FsState, HandleState, InodeState, QueuePosition, QueueState, TransportState};
use crate::vsock::{self, ConnectionId, Endpoint, Vsock};
pub use bridge::Bridge;
pub use driver::{BUFFERS, Driver, MEMORY_BYTES, Piece, QUEUE_SIZE};
use script::Script;

/// A header of a vsock packet, the ids of the machines in front.
const HEADER_BYTES: usize = 44;
const TRANSMIT: usize = 1;
/// No test of ours is longer.
const MAX_STEPS: usize = 256;
/// Pairs of queues of a network device, and all of its queues.
const PAIRS: usize = 2;
const NET_QUEUES: u16 = 2 * PAIRS as u16 + 1;
/// Few enough that requests often meet its end.
const DISK_BYTES: u64 = 64 << 10;

/// Reads and writes registers as the bytes say: offset, width, value.
pub fn mmio_accesses(bytes: &[u8]) {
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    let line = EventFd::new(EFD_NONBLOCK).unwrap();
    let mut transport =
        MmioTransport::new(Arc::new(memory), Box::new(Idle), line, RegisterPage::unmapped())
            .unwrap();
    let mut script = Script::new(bytes);
    for _ in 0..MAX_STEPS {
        let Some(how) = script.byte() else { return };
        // Most of the page is nothing.
        let offset = u64::from(script.word() % 0x140);
        let mut data = [0; 8];
        data[..4].copy_from_slice(&script.word().to_le_bytes());
        let data = &mut data[..usize::from(how % 9)];
        if how & 0x80 == 0 { transport.write(offset, data) } else { transport.read(offset, data) }
    }
}

/// A device that does nothing.
struct Idle;

impl VirtioDevice for Idle {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 1024]
    }

    fn config(&self) -> &[u8] {
        &[1, 2, 3]
    }

    fn activate(&mut self, _activation: Activation) -> bool {
        true
    }

    fn reset(&mut self) {}
}

/// Plays a guest and a host of the socket device as the bytes say.
pub fn vsock_packets(bytes: &[u8]) {
    let poller = Arc::new(Poller::open().unwrap());
    let (device, mut vsock) = vsock::open(Arc::clone(&poller), 0).unwrap();
    let mut driver = Driver::start(Box::new(device), 3);
    turn(&poller, &mut vsock, &mut driver);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let first = vsock.connect(1025, Endpoint::Stream(ours.into()), b"prologue").ok();
    let mut script = Script::new(bytes);
    for _ in 0..MAX_STEPS {
        let Some(step) = script.byte() else { return };
        match step % 8 {
            0..=2 => send_packet(&mut driver, &mut script, first),
            3 => give_buffer(&mut driver, 0, &mut script),
            4 => write_host(&mut theirs, &mut script),
            5 => vsock.expire(
                Instant::now() + Duration::from_secs(u64::from(script.byte().unwrap_or(0))),
            ),
            6 => break_descriptor(&mut driver, 2, &mut script),
            _ => connect_again(&mut vsock, &mut script),
        }
        turn(&poller, &mut vsock, &mut driver);
    }
}

fn turn(poller: &Poller, vsock: &mut Vsock, driver: &mut Driver) {
    let mut events = Events::new();
    // A correct device comes to rest; one that does not is found by the fuzzer's timeout.
    while let ready @ [_, ..] = poller.wait(&mut events, Some(Duration::ZERO)).unwrap() {
        for (token, readiness) in ready {
            vsock.handle(*token, *readiness);
        }
        while vsock.next_event().is_some() {}
        for queue in 0..2 {
            while driver.used(queue).is_some() {}
        }
    }
}

fn send_packet(driver: &mut Driver, script: &mut Script<'_>, first: Option<ConnectionId>) {
    let mut header = [0; HEADER_BYTES];
    header[0] = 3;
    header[8] = 2;
    script.fill(&mut header[16..]);
    let (kind, payload) = (script.byte().unwrap_or(0), script.word() % 3000);
    header[16..20].copy_from_slice(&1025u32.to_le_bytes());
    let port = if kind & 1 == 0 { first.map_or(0, ConnectionId::port) } else { 1024 };
    header[20..24].copy_from_slice(&port.to_le_bytes());
    if kind & 2 == 0 {
        header[24..28].copy_from_slice(&payload.to_le_bytes());
        header[28..30].copy_from_slice(&1u16.to_le_bytes());
        header[30..32].copy_from_slice(&u16::from(kind >> 2 & 7).to_le_bytes());
    }
    driver.write(BUFFERS, &header);
    let head = Piece { address: BUFFERS, length: HEADER_BYTES as u32, writable: false };
    let body = Piece { address: BUFFERS + 0x1000, length: payload, writable: false };
    driver.offer(TRANSMIT, &[head, body]);
}

fn give_buffer(driver: &mut Driver, queue: usize, script: &mut Script<'_>) {
    let length = script.word() % 5000;
    let offset = u64::from(script.byte().unwrap_or(0)) * 0x1000;
    let address = BUFFERS + 0x10_0000 + offset;
    driver.offer(queue, &[Piece { address, length, writable: true }]);
}

fn write_host(host: &mut UnixStream, script: &mut Script<'_>) {
    let length = script.word() as usize % 10_000;
    // Full, or closed: as it may be.
    let _ = std::io::Write::write(host, &vec![0; length]);
    let _ = std::io::Read::read(host, &mut vec![0; length]);
}

fn break_descriptor(driver: &mut Driver, queues: usize, script: &mut Script<'_>) {
    let (queue, index) = (script.word() as usize % queues, script.word() as u16);
    let address = u64::from(script.word()) << (script.byte().unwrap_or(0) % 33);
    let piece = Piece { address, length: script.word(), writable: false };
    driver.descriptor(queue, index % QUEUE_SIZE, &piece, script.word() as u16 & 7, index % 20);
    driver.announce(queue, index % QUEUE_SIZE);
}

fn connect_again(vsock: &mut Vsock, script: &mut Script<'_>) {
    let Ok((ours, _theirs)) = UnixStream::pair() else { return };
    let endpoint = match script.byte().unwrap_or(0) % 4 {
        0 => Endpoint::Source(ours.into()),
        1 => Endpoint::Sink(ours.into()),
        2 => Endpoint::Tcp(ours.into()),
        _ => Endpoint::Terminal(ours.into()),
    };
    // Not ready, or no place: as it may be.
    let _ = vsock.connect(1025, endpoint, b"");
}

/// Plays a guest and a host of the network device as the bytes say.
pub fn net_frames(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let (tap, hosts): (Vec<_>, Vec<_>) = (0..PAIRS).map(|_| queue_of_a_tap()).unzip();
    let poller = Arc::new(Poller::open().unwrap());
    let config = NetConfig { mac: [2; 6], mtu: 1500, uncut_udp: true };
    let (device, mut net) = net::open(Arc::clone(&poller), 0, tap, config).unwrap();
    let features = net_features(script.byte().unwrap_or(0));
    let mut driver = Driver::start_with(Box::new(device), NET_QUEUES, features);
    for _ in 0..MAX_STEPS {
        let Some(step) = script.byte() else { return };
        let pair = usize::from(step >> 4) % PAIRS;
        match step % 5 {
            0 => send_frame(&mut driver, pair, &mut script),
            1 => give_buffer(&mut driver, 2 * pair, &mut script),
            2 => drop(hosts[pair].send(&vec![step; script.word() as usize % 3000])),
            3 => ask_network_device(&mut driver, &mut script),
            _ => break_descriptor(&mut driver, NET_QUEUES.into(), &mut script),
        }
        for host in &hosts {
            while host.recv(&mut [0; 64]).is_ok() {}
        }
        serve_frames(&poller, &mut net, &mut driver);
    }
}

fn queue_of_a_tap() -> (OwnedFd, UnixDatagram) {
    let (tap, host) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    host.set_nonblocking(true).unwrap();
    (tap.into(), host)
}

/// Asks for a number of pairs, or for nothing that there is.
fn ask_network_device(driver: &mut Driver, script: &mut Script<'_>) {
    let mut command = [4, 0, 0, 0, 0, 0];
    script.fill(&mut command[2..4]);
    if script.byte().unwrap_or(0).is_multiple_of(4) {
        script.fill(&mut command);
    }
    driver.write(BUFFERS, &command);
    let length = script.word() % 7;
    let asked = Piece { address: BUFFERS, length, writable: false };
    let answer = Piece { address: BUFFERS + 8, length: script.word() % 3, writable: true };
    driver.offer(usize::from(NET_QUEUES) - 1, &[asked, answer]);
}

/// Checksums, what is not cut, several buffers, several pairs: each of them or not. What the guest
/// takes uncut a socket cannot be told of.
fn net_features(choice: u8) -> u64 {
    let bits = [0, 11, 12, 13, 15, 56, 17, 22];
    let chosen = bits.iter().enumerate().filter(|(index, _)| choice >> index & 1 != 0);
    chosen.fold(0, |all, (_, bit)| all | 1 << bit)
}

fn send_frame(driver: &mut Driver, pair: usize, script: &mut Script<'_>) {
    let mut header = [0; 12];
    script.fill(&mut header[..10]);
    driver.write(BUFFERS, &header);
    let (cut, length) = (script.word() % 20, script.word() % 70_000);
    let head = Piece { address: BUFFERS, length: cut, writable: false };
    let body = Piece { address: BUFFERS + u64::from(cut), length, writable: false };
    driver.offer(2 * pair + 1, &[head, body]);
}

fn serve_frames(poller: &Poller, net: &mut Net, driver: &mut Driver) {
    let mut events = Events::new();
    while let ready @ [_, ..] = poller.wait(&mut events, Some(Duration::ZERO)).unwrap() {
        for (token, readiness) in ready {
            net.handle(*token, *readiness);
        }
        for queue in 0..NET_QUEUES.into() {
            while driver.used(queue).is_some() {}
        }
    }
}

/// Asks for things of a disk as the bytes say.
pub fn blk_requests(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let disk = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&disk, DISK_BYTES).unwrap();
    let disk = std::fs::File::from(disk);
    let poller = Arc::new(Poller::open().unwrap());
    let read_only = script.byte().unwrap_or(0).is_multiple_of(4);
    let config = BlkConfig { bytes: DISK_BYTES, block_bytes: 512, read_only };
    let file = disk.try_clone().unwrap();
    let (device, mut blk) = blk::open(Arc::clone(&poller), 0, file, config).unwrap();
    let features = if read_only { 0 } else { 1 << 9 };
    let mut driver = Driver::start_with(Box::new(device), 1, features);
    for _ in 0..MAX_STEPS {
        let Some(step) = script.byte() else { break };
        match step % 8 {
            0 => break_descriptor(&mut driver, 1, &mut script),
            _ => ask_disk(&mut driver, step, &mut script),
        }
        let mut events = Events::new();
        while let ready @ [_, ..] = poller.wait(&mut events, Some(Duration::ZERO)).unwrap() {
            ready.iter().for_each(|(token, _)| blk.handle(*token));
        }
        while driver.used(0).is_some() {}
    }
    assert_eq!(disk.metadata().unwrap().len(), DISK_BYTES);
}

fn ask_disk(driver: &mut Driver, step: u8, script: &mut Script<'_>) {
    let kinds = [0, 1, 4, 8, 11, 13, 2];
    let mut header = [0; 16];
    header[0] = kinds[usize::from(step >> 3) % kinds.len()];
    // Mostly on the disk, or near its end.
    let sector = u64::from(script.word() % 140) << (script.byte().unwrap_or(0) & 32);
    header[8..].copy_from_slice(&sector.to_le_bytes());
    driver.write(BUFFERS, &header);
    script.fill(&mut header);
    driver.write(BUFFERS + 0x100, &header);
    let length = script.word() % 3 * 512 + u32::from(script.byte().unwrap_or(0) % 32);
    let pieces = [
        Piece { address: BUFFERS, length: 16, writable: false },
        Piece { address: BUFFERS + 0x100, length, writable: step & 1 == 0 },
        Piece { address: BUFFERS + 0x8000, length: 1, writable: true },
    ];
    driver.offer(0, &pieces);
}

/// Asks the file server as the bytes say. The folder should be small, and nobody else's.
pub fn fs_requests(folder: &Path, bytes: &[u8]) {
    // A server takes its thread's working directory for itself.
    std::thread::scope(|scope| scope.spawn(|| ask_server(folder, bytes)).join().unwrap());
}

fn ask_server(folder: &Path, bytes: &[u8]) {
    let (device, mut server) = fs::serving(folder).unwrap();
    let mut driver = Driver::start(Box::new(device), 2);
    server.step();
    let mut script = Script::new(bytes);
    for _ in 0..MAX_STEPS {
        let Some(opcode) = script.byte() else { return };
        let mut message = [0; 200];
        let length = 40 + usize::from(script.byte().unwrap_or(0)) % 160;
        message[0..4].copy_from_slice(&(length as u32).to_le_bytes());
        message[4..8].copy_from_slice(&u32::from(opcode % 56).to_le_bytes());
        message[16..24].copy_from_slice(&u64::from(script.byte().unwrap_or(0) % 8).to_le_bytes());
        script.fill(&mut message[40..length]);
        let room = script.word() % 5000;
        driver.write(BUFFERS, &message);
        let request = Piece { address: BUFFERS, length: length as u32, writable: false };
        let answer = Piece { address: BUFFERS + 0x10_0000, length: room, writable: true };
        driver.offer(usize::from(opcode >> 7), &[request, answer]);
        server.step();
        for queue in 0..2 {
            while driver.used(queue).is_some() {}
        }
    }
}

/// Restores devices from what the bytes say was saved of them, and has them serve.
pub fn saved_devices(folder: &Path, bytes: &[u8]) {
    std::thread::scope(|scope| scope.spawn(|| restore_devices(folder, bytes)).join().unwrap());
}

fn restore_devices(folder: &Path, bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let (device, mut server) = fs::serving(folder).unwrap();
    // Refused or not: as it may be.
    let _ = server.restore_files(&saved_files(&mut script));
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    let line = EventFd::new(EFD_NONBLOCK).unwrap();
    let mut transport =
        MmioTransport::new(Arc::new(memory), Box::new(device), line, RegisterPage::unmapped())
            .unwrap();
    let _ = transport.restore(&saved_transport(&mut script));
    server.step();
    let _ = server.save_files();
}

fn saved_files(script: &mut Script<'_>) -> FsState {
    const PATHS: [&str; 6] = ["file", "folder/file", "..", "/etc", "", "folder"];
    let mut state = FsState::default();
    for _ in 0..script.byte().unwrap_or(0) % 8 {
        let path = PATHS[usize::from(script.byte().unwrap_or(0)) % PATHS.len()];
        state.inodes.push(InodeState {
            number: number(script),
            generation: script.word().into(),
            path: script.byte().map(|_| path.as_bytes().to_vec().into()),
            kind: script.word(),
            lookups: script.word().into(),
            opened: None,
        });
        state.handles.push(HandleState {
            number: number(script),
            generation: 0,
            inode: number(script),
            flags: script.word(),
            size: script.byte().map(u64::from),
        });
    }
    state
}

/// Mostly a small one, sometimes one that is far too large.
fn number(script: &mut Script<'_>) -> u64 {
    match script.byte().unwrap_or(0) {
        255 => u64::MAX,
        byte => u64::from(byte % 8),
    }
}

fn saved_transport(script: &mut Script<'_>) -> TransportState {
    let mut queue = || QueueState {
        size: script.word() % 0x1_0001,
        ready: script.byte().unwrap_or(0) & 1 == 0,
        descriptors: u64::from(script.word()) % 0x1_1000,
        driver: u64::from(script.word()) % 0x1_1000,
        device: u64::from(script.word()) % 0x1_1000,
        position: QueuePosition {
            next_available: script.word() as u16,
            next_used: script.word() as u16,
        },
    };
    let queues = vec![queue(), queue()];
    TransportState {
        device_type: DeviceType::Fs as u32,
        status: script.word() % 0x100,
        interrupt: script.word() % 4,
        queue_select: script.word(),
        device_select: script.word(),
        driver_select: script.word(),
        accepted: FEATURE_VERSION_1 | u64::from(script.word()),
        queues,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn mmio_accesses_do_no_harm(bytes in vec(any::<u8>(), 0..2000)) {
            mmio_accesses(&bytes);
        }

        #[test]
        fn vsock_packets_do_no_harm(bytes in vec(any::<u8>(), 0..2000)) {
            vsock_packets(&bytes);
        }

        #[test]
        fn blk_requests_do_no_harm(bytes in vec(any::<u8>(), 0..2000)) {
            blk_requests(&bytes);
        }

        #[test]
        fn net_frames_do_no_harm(bytes in vec(any::<u8>(), 0..2000)) {
            net_frames(&bytes);
        }

        #[test]
        fn saved_devices_do_no_harm(bytes in vec(any::<u8>(), 0..400)) {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("file"), "content").unwrap();
            saved_devices(folder.path(), &bytes);
        }

        #[test]
        fn fs_requests_do_no_harm(bytes in vec(any::<u8>(), 0..2000)) {
            fs_requests(tempfile::tempdir().unwrap().path(), &bytes);
        }
    }
}
