//! One request (virtio 1.2, section 5.2.6): header, data, a byte for what came of it.
//!
//! Hostile: all of it. A request is checked against the disk before anything is done; one that is not
//! right has failed, as on a disk that is broken.

use std::fs::File;
use std::io;

use rustix::fs::FallocateFlags;

use super::sys::Pieces;
use super::{MAX_DISCARD_SECTORS, SECTOR_BYTES};
use crate::chain::{Chain, Descriptor};
use crate::memory::{Address as _, Bytes as _, GuestAddress, GuestRam};

/// As long as a segment may be: what Linux merges by itself is shorter.
pub(super) const MAX_SEGMENT_BYTES: u32 = 64 << 10;
/// In how many segments: the places of the queue without header and answer.
pub(super) const MAX_SEGMENTS: u32 = 126;
/// What one request moves at most.
const MAX_BYTES: usize = MAX_SEGMENT_BYTES as usize * MAX_SEGMENTS as usize;

/// It was done.
pub(super) const OK: u8 = 0;
const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;

const HEADER_BYTES: usize = 16;
/// What names a range: its beginning, its length, flags.
const RANGE_BYTES: usize = 16;
const UNMAP: u32 = 1;
/// A disk's name (section 5.2.6).
const ID_BYTES: usize = 20;
const ID: &[u8; ID_BYTES] = b"cofferdam-disk\0\0\0\0\0\0";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
    Id,
    Discard,
    WriteZeroes,
    Unknown,
}

impl Kind {
    const fn of(number: u32) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            4 => Self::Flush,
            8 => Self::Id,
            11 => Self::Discard,
            13 => Self::WriteZeroes,
            _ => Self::Unknown,
        }
    }

    /// Whether its data is for the device to read.
    const fn is_sent(self) -> bool {
        matches!(self, Self::Write | Self::Discard | Self::WriteZeroes)
    }
}

/// A request whose data is in the pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    kind: Kind,
    sector: u64,
    /// What of the driver's memory is read, and written beside the answer.
    pub(super) read: usize,
    pub(super) written: usize,
    /// Where the answer goes.
    pub(super) status: GuestAddress,
}

impl Request {
    /// Takes a chain apart; `None` for one that is no request.
    pub(super) fn parse(chain: Chain<'_>, memory: &GuestRam, pieces: &mut Pieces) -> Option<Self> {
        let mut header = [0; HEADER_BYTES];
        read(chain.clone().readable(), memory, &mut header)?;
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let kind = Kind::of(u32::from_le_bytes([k0, k1, k2, k3]));
        let sent = length(chain.clone().readable()).checked_sub(HEADER_BYTES)?;
        // The last byte is the answer's.
        let asked = length(chain.clone().writable()).checked_sub(1)?;
        let status = address_of(chain.clone().writable(), asked)?;
        let gathered = if kind.is_sent() {
            gather(chain.readable(), HEADER_BYTES..HEADER_BYTES + sent, pieces)
        } else {
            gather(chain.writable(), 0..asked, pieces)
        };
        gathered?;
        let (read, written) = if kind.is_sent() { (sent, 0) } else { (0, asked) };
        Some(Self { kind, sector: u64::from_le_bytes(sector), read, written, status })
    }

    /// How much data it has.
    const fn bytes(&self) -> usize {
        if self.kind.is_sent() { self.read } else { self.written }
    }
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It is not right: beyond the disk's end, not in sectors, too large, for a disk that is only read.
    #[error("The request is not right")]
    Wrong,
    /// There is no such request.
    #[error("The request is not one that this device knows")]
    Unknown,
    /// The disk.
    #[error("The disk does not do it")]
    Disk(#[from] io::Error),
}

impl Failure {
    /// What the driver is told.
    pub(super) fn status(&self) -> u8 {
        match self {
            Self::Disk(error) if error.kind() == io::ErrorKind::Unsupported => UNSUPPORTED,
            Self::Wrong | Self::Disk(_) => FAILED,
            Self::Unknown => UNSUPPORTED,
        }
    }
}

/// What requests are about.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) file: File,
    pub(super) sectors: u64,
    pub(super) read_only: bool,
}

impl Disk {
    /// Does what is asked for.
    pub(super) fn perform(
        &self,
        request: &Request,
        memory: &GuestRam,
        pieces: &mut Pieces,
        writes_through: bool,
    ) -> Result<(), Failure> {
        match request.kind {
            Kind::Read => Ok(pieces.read_from(&self.file, self.place(request)?)?),
            Kind::Flush => Ok(self.file.sync_data()?),
            Kind::Id => self.say_id(memory, pieces),
            Kind::Unknown => Err(Failure::Unknown),
            _ if self.read_only => Err(Failure::Wrong),
            Kind::Write | Kind::Discard | Kind::WriteZeroes => {
                self.change(request, memory, pieces)?;
                if writes_through { Ok(self.file.sync_data()?) } else { Ok(()) }
            }
        }
    }

    fn change(
        &self,
        request: &Request,
        memory: &GuestRam,
        pieces: &mut Pieces,
    ) -> Result<(), Failure> {
        match request.kind {
            Kind::Write => Ok(pieces.write_to(&self.file, self.place(request)?)?),
            _ => self.clear(request, memory, pieces),
        }
    }

    /// Where on the disk data is read or written.
    fn place(&self, request: &Request) -> Result<u64, Failure> {
        let bytes = request.bytes();
        let whole = (bytes as u64).is_multiple_of(SECTOR_BYTES) && bytes <= MAX_BYTES;
        if !whole {
            return Err(Failure::Wrong);
        }
        self.range(request.sector, bytes as u64 / SECTOR_BYTES)
    }

    /// Where a range begins that is on the disk.
    fn range(&self, sector: u64, sectors: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(sectors).filter(|end| *end <= self.sectors);
        end.and_then(|_| sector.checked_mul(SECTOR_BYTES)).ok_or(Failure::Wrong)
    }

    fn say_id(&self, memory: &GuestRam, pieces: &Pieces) -> Result<(), Failure> {
        let place = pieces.first().filter(|(_, length)| *length >= ID_BYTES);
        let (address, _) = place.ok_or(Failure::Wrong)?;
        memory.write_slice(ID, address).map_err(|_| Failure::Wrong)
    }

    /// Makes one range zero, or says that it is not needed any more: it reads as zeros then.
    fn clear(&self, request: &Request, memory: &GuestRam, pieces: &Pieces) -> Result<(), Failure> {
        let mut range = [0; RANGE_BYTES];
        let place = pieces.first().filter(|_| request.bytes() == RANGE_BYTES);
        let (address, _) =
            place.filter(|(_, length)| *length == RANGE_BYTES).ok_or(Failure::Wrong)?;
        memory.read_slice(&mut range, address).map_err(|_| Failure::Wrong)?;
        let [sector @ .., n0, n1, n2, n3, f0, f1, f2, f3] = range;
        let (sectors, flags) =
            (u32::from_le_bytes([n0, n1, n2, n3]), u32::from_le_bytes([f0, f1, f2, f3]));
        let allowed = if request.kind == Kind::WriteZeroes { UNMAP } else { 0 };
        if flags & !allowed != 0 {
            return Err(Failure::Unknown);
        }
        if sectors > MAX_DISCARD_SECTORS {
            return Err(Failure::Wrong);
        }
        let offset = self.range(u64::from_le_bytes(sector), sectors.into())?;
        let punches = request.kind == Kind::Discard || flags & UNMAP != 0;
        let how = if punches { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        let bytes = u64::from(sectors) * SECTOR_BYTES;
        if bytes == 0 {
            return Ok(());
        }
        let cleared =
            rustix::fs::fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, offset, bytes);
        Ok(cleared.map_err(io::Error::from)?)
    }
}

/// Bytes in all. Cannot overflow: the queue ends a chain at 4 GiB.
fn length(descriptors: impl Iterator<Item = Descriptor>) -> usize {
    descriptors.map(|descriptor| descriptor.len() as usize).sum()
}

/// Fills a buffer from the first bytes.
fn read(
    descriptors: impl Iterator<Item = Descriptor>,
    memory: &GuestRam,
    buffer: &mut [u8],
) -> Option<()> {
    let mut done = 0;
    for descriptor in descriptors {
        let count = (descriptor.len() as usize).min(buffer.len() - done);
        memory.read_slice(buffer.get_mut(done..done + count)?, descriptor.addr()).ok()?;
        done += count;
    }
    (done == buffer.len()).then_some(())
}

/// Where the byte with this number lies.
fn address_of(
    descriptors: impl Iterator<Item = Descriptor>,
    number: usize,
) -> Option<GuestAddress> {
    let mut before = 0;
    for descriptor in descriptors {
        let length = descriptor.len() as usize;
        if number < before + length {
            return descriptor.addr().checked_add((number - before) as u64);
        }
        before += length;
    }
    None
}

/// Puts the bytes with these numbers into the pieces.
fn gather(
    descriptors: impl Iterator<Item = Descriptor>,
    wanted: std::ops::Range<usize>,
    pieces: &mut Pieces,
) -> Option<()> {
    let mut before = 0;
    for descriptor in descriptors {
        let end = before + descriptor.len() as usize;
        let (from, to) = (wanted.start.max(before), wanted.end.min(end));
        if from < to {
            let address = descriptor.addr().checked_add((from - before) as u64)?;
            pieces.push(address, to - from)?;
        }
        before = end;
    }
    Some(())
}
