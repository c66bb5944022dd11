//! Disks that come and go while the guest runs. A thread of their own serves them: a disk may take its
//! time, and nothing else waits for it then.
//!
//! ```text
//!             this thread                      the disks' thread
//!  request, disk ─▶ device half ─▶ slot
//!              └──▶ worker ──── comes ───────▶ serves
//!  request ──────────────────── goes ────────▶ closes worker and disk
//!      slot emptied ◀────────── gone ────────────┘
//! ```
//!
//! A disk that does not come back from a request cannot be let go of; that is said after a while, and it
//! stays.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::Duration;

use cofferdam_protocol::control::AttachDisk;
use cofferdam_virtio::blk::{self, Blk, BlkConfig};
use cofferdam_virtio::poll::{Events, Interest, Poller, Token};
use rustix::event::{EventfdFlags, eventfd};

use super::wiring::{Interrupting, PlugError, Plugged, Wiring};
use crate::machine::kvm::KvmError;
use crate::report::chain;

/// A disk on the network that has an answer to wait for takes a second or two. Meanwhile this thread
/// serves nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// No slot has this number.
const CHANGES: u32 = u32::MAX;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum AttachDiskError {
    /// What came with the request.
    #[error("A disk comes with one descriptor, not {0}")]
    Descriptors(usize),
    /// Its size.
    #[error("A disk of {bytes} bytes in blocks of {block_bytes} is none")]
    Shape {
        /// How much it would hold.
        bytes: u64,
        /// How long its blocks would be.
        block_bytes: u32,
    },
    /// The device.
    #[error("The block device cannot be made")]
    Device(#[source] io::Error),
    /// Its slot.
    #[error(transparent)]
    Plug(#[from] PlugError),
}

/// Why a disk is still there.
#[derive(Debug, thiserror::Error)]
pub enum DetachDiskError {
    /// Its thread.
    #[error("The disk does not come back from what it was asked for")]
    Busy,
    /// KVM.
    #[error("The block device cannot be disconnected")]
    Kvm(#[from] KvmError),
}

/// What changes for the thread that serves.
enum Change {
    /// A disk comes.
    Comes(u32, Blk),
    /// One goes; dropping the end says that it is gone.
    Goes(u32, SyncSender<()>),
}

/// The way to the thread that serves.
pub struct DisksLink {
    poller: Arc<Poller>,
    changes: Sender<Change>,
    wake: OwnedFd,
}

/// The disks, and what it takes to have another.
pub struct Disks {
    /// The machine.
    pub wiring: Wiring,
    /// The thread that serves them.
    pub link: DisksLink,
    /// Those that there are, by their slots.
    pub plugged: BTreeMap<usize, Plugged>,
}

/// What serves them.
pub struct DiskServer {
    poller: Arc<Poller>,
    changes: Receiver<Change>,
    wake: OwnedFd,
    disks: BTreeMap<u32, Blk>,
}

/// A server without disks, and the way to it.
///
/// # Errors
/// When the system has no descriptor left.
pub fn pair() -> io::Result<(DisksLink, DiskServer)> {
    let poller = Arc::new(Poller::open()?);
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    poller.add(&wake, Token { owner: CHANGES, index: 0 }, Interest::READ)?;
    let (sender, receiver) = mpsc::channel();
    let ours = wake.try_clone()?;
    let link = DisksLink { poller: Arc::clone(&poller), changes: sender, wake: ours };
    Ok((link, DiskServer { poller, changes: receiver, wake, disks: BTreeMap::new() }))
}

impl DisksLink {
    /// False when nobody serves any more: the sandbox is lost then, and somebody else says so.
    fn tell(&self, change: Change) -> bool {
        let told = self.changes.send(change).is_ok();
        told && rustix::io::write(&self.wake, &1_u64.to_ne_bytes()).is_ok()
    }

    /// Has the server let go of a disk; false when it does not in time.
    fn take_away(&self, owner: u32) -> bool {
        let (sender, gone) = mpsc::sync_channel(0);
        self.tell(Change::Goes(owner, sender));
        !matches!(gone.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Timeout))
    }
}

impl Disks {
    /// Makes a device of a disk; its number among the virtio-mmio devices.
    ///
    /// # Errors
    /// When there is no room, or something refuses. A slot that was not filled stays empty.
    pub fn attach(
        &mut self,
        request: AttachDisk,
        descriptors: Vec<OwnedFd>,
    ) -> Result<u32, AttachDiskError> {
        let [disk]: [OwnedFd; 1] = descriptors
            .try_into()
            .map_err(|came: Vec<OwnedFd>| AttachDiskError::Descriptors(came.len()))?;
        let config = checked(request)?;
        let slot = self.wiring.free_slot()?;
        let (index, owner) = (slot.index, slot.index as u32);
        let poller = Arc::clone(&self.link.poller);
        let opened = blk::open(poller, owner, File::from(disk), config);
        let (device, worker) = opened.map_err(AttachDiskError::Device)?;
        self.link.tell(Change::Comes(owner, worker));
        match self.wiring.plug(slot, Box::new(device), Interrupting::ByEvent) {
            Ok(plugged) => {
                self.plugged.insert(index, plugged);
                Ok(self.wiring.number_of(index))
            }
            Err(error) => {
                self.link.take_away(owner);
                Err(error.into())
            }
        }
    }

    /// Takes the disk of this number away. One that is not there is taken away already.
    ///
    /// # Errors
    /// When its thread does not let go of it: it is there as before. When KVM keeps a wire of it; the disk is let
    /// go of all the same.
    pub fn detach(&mut self, number: u32) -> Result<(), DetachDiskError> {
        let slot = self.wiring.slot_of(number).filter(|slot| self.plugged.contains_key(slot));
        let Some(slot) = slot else { return Ok(()) };
        if !self.link.take_away(slot as u32) {
            return Err(DetachDiskError::Busy);
        }
        let unplugged = self.plugged.remove(&slot);
        Ok(unplugged.map_or(Ok(()), |plugged| self.wiring.unplug(slot, &plugged))?)
    }
}

/// What the runtime says of a disk, if that can be.
fn checked(request: AttachDisk) -> Result<BlkConfig, AttachDiskError> {
    let AttachDisk { bytes, block_bytes, read_only } = request;
    let blocks = block_bytes.is_power_of_two() && (512..=64 << 10).contains(&block_bytes);
    if !blocks || i64::try_from(bytes).is_err() {
        return Err(AttachDiskError::Shape { bytes, block_bytes });
    }
    Ok(BlkConfig { bytes, block_bytes, read_only })
}

impl DiskServer {
    /// Serves for ever; the reason why it could not.
    #[must_use]
    pub fn run(mut self) -> String {
        let mut events = Events::new();
        let poller = Arc::clone(&self.poller);
        loop {
            match poller.wait(&mut events, None) {
                Err(error) => return format!("The disks cannot be waited for: {}", chain(&error)),
                Ok(ready) => ready.iter().for_each(|(token, _)| self.handle(*token)),
            }
        }
    }

    fn handle(&mut self, token: Token) {
        if token.owner == CHANGES {
            return self.change();
        }
        // None: it has gone since it was told of.
        if let Some(disk) = self.disks.get_mut(&token.owner) {
            disk.handle(token);
        }
    }

    fn change(&mut self) {
        // It was raised, so there is something to read.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        while let Ok(change) = self.changes.try_recv() {
            match change {
                Change::Comes(owner, disk) => drop(self.disks.insert(owner, disk)),
                Change::Goes(owner, gone) => {
                    if let Some(disk) = self.disks.remove(&owner) {
                        disk.close();
                    }
                    drop(gone);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_disk_is_refused() {
        let disk = |bytes, block_bytes| checked(AttachDisk { bytes, block_bytes, read_only: true });
        assert!(disk(0, 512).is_ok() && disk(1 << 40, 4096).is_ok());
        for (bytes, block_bytes) in [(1, 0), (1, 256), (1, 1000), (1, 1 << 20), (u64::MAX, 512)] {
            assert!(matches!(disk(bytes, block_bytes), Err(AttachDiskError::Shape { .. })));
        }
    }

    #[test]
    fn a_disk_that_goes_is_closed_before_it_is_said_to_be_gone() {
        let (link, mut server) = pair().unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = File::from(OwnedFd::from(theirs));
        let config = BlkConfig { bytes: 512, block_bytes: 512, read_only: true };
        let (_device, worker) = blk::open(Arc::clone(&link.poller), 1, file, config).unwrap();
        assert!(link.tell(Change::Comes(1, worker)));
        server.change();
        let serving = std::thread::spawn(move || {
            while !server.disks.is_empty() {
                let mut events = Events::new();
                let poller = Arc::clone(&server.poller);
                for (token, _) in poller.wait(&mut events, None).unwrap() {
                    server.handle(*token);
                }
            }
            server
        });
        assert!(link.take_away(1));
        let mut byte = [0];
        assert_eq!(rustix::io::read(&ours, &mut byte), Ok(0), "the disk is closed");
        drop(serving.join().unwrap());
    }
}
