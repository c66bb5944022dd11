//! Guest memory: private anonymous pages that cost nothing until they are touched.
//!
//! Huge pages are asked for, and files are read in, not mapped. A page of 4 KiB that a booting
//! guest touches costs about 5000 instructions on the way through KVM and the host's memory
//! management, and it touches thousands: with the kernel mapped from its file the boot takes 30
//! million instructions more, which no sharing of the page cache is worth.
//!
//! Hostile: the guest writes all of this at any time. Whoever reads guest memory after the guest
//! runs reads each value once and checks what was read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use vm_memory::{
    Address as _, Bytes as _, GuestAddress, GuestMemory as _, GuestMemoryMmap,
    GuestMemoryRegion as _, GuestRegionMmap,
};

use super::hot_memory::BLOCK_BYTES;
use super::layout::{HUGE_PAGE_BYTES, MemoryLayout};
use super::sys;

/// The guest's RAM as this process sees it.
pub type Memory = GuestMemoryMmap;

/// Why guest memory could not be made or filled.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The kernel has no room for the mapping.
    #[error("Guest memory of {bytes} bytes cannot be mapped")]
    Map {
        /// The size of the region.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// The regions do not make sense together: the layout is wrong.
    #[error("The guest's memory regions overlap")]
    Regions(#[source] vm_memory::GuestRegionCollectionError),
    /// The regions do not make sense together: the layout is wrong.
    #[error("A guest memory region wraps around")]
    Wrap,
    /// Something to be placed lies outside of guest memory.
    #[error("{bytes} bytes at {address:#x} are outside of guest memory")]
    Outside {
        /// Where it was to go.
        address: u64,
        /// Its size.
        bytes: u64,
    },
    /// A snapshot's memory is not that of this machine.
    #[error("The snapshot's memory has {found} bytes, the machine {expected}")]
    Length {
        /// In the file.
        found: u64,
        /// Of this machine.
        expected: u64,
    },
    /// A file could not be read into guest memory.
    #[error("A file cannot be read into guest memory")]
    ReadFile(#[source] io::Error),
}

/// Makes the guest's RAM, and room for so many blocks more. Where the address space has none for
/// those, the guest can do without.
///
/// # Errors
/// When the address space has no room for the RAM.
pub fn allocate(layout: MemoryLayout, hot_blocks: u32) -> Result<Memory, MemoryError> {
    let ranges = layout.ranges();
    if hot_blocks > 0 {
        let start = layout.hot_start();
        let hot = start..start + u64::from(hot_blocks) * BLOCK_BYTES;
        let with_room = allocate_ranges(&[ranges.as_slice(), &[hot]].concat());
        match with_room {
            Err(error) => tracing::warn!("The guest's memory cannot grow: {error}"),
            Ok(memory) => return Ok(memory),
        }
    }
    allocate_ranges(&ranges)
}

/// Makes a little RAM at address 0, for a VM that is thrown away.
///
/// # Errors
/// As [`allocate`].
pub fn allocate_small(bytes: u64) -> Result<Memory, MemoryError> {
    allocate_ranges(std::slice::from_ref(&(0..bytes)))
}

fn allocate_ranges(ranges: &[Range<u64>]) -> Result<Memory, MemoryError> {
    let mut regions = Vec::with_capacity(ranges.len());
    for range in ranges {
        let bytes = range.end - range.start;
        let mapping = sys::map_aligned(bytes as usize, HUGE_PAGE_BYTES as usize)
            .map_err(|source| MemoryError::Map { bytes, source })?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(range.start));
        regions.push(region.ok_or(MemoryError::Wrap)?);
    }
    Memory::from_regions(regions).map_err(MemoryError::Regions)
}

/// Where a booting guest takes a page here and a page there, so that small ones are worth it.
const THIN: Range<u64> = 2 << 20..8 << 20;

/// The end of the first block that the guest's kernel knows of as a block (since it can hot-plug
/// any): what it touches there, by where its allocator begins, is a quarter of a huge page.
const FIRST_BLOCK_END: Range<u64> = BLOCK_BYTES - HUGE_PAGE_BYTES..BLOCK_BYTES;

/// Asks for huge pages where the guest uses memory densely. At [`THIN`] addresses, at
/// [`FIRST_BLOCK_END`], and in a huge page that the kernel just reaches into, small ones spare an
/// idle guest 6 MiB. Each that it touches costs the boot 5 virtual microseconds, and a huge one 350.
///
/// It is advice: a host that knows no huge pages serves as well.
pub fn advise_huge_pages(memory: &Memory, kernel: &Range<u64>) {
    for region in memory.iter() {
        let (start, host) = (region.start_addr().raw_value(), region.as_ptr());
        let piece = |range: &Range<u64>, huge| {
            let place = host.wrapping_add((range.start - start) as usize);
            let _ = sys::advise_huge_pages(place, (range.end - range.start) as usize, huge);
        };
        let range = start..start + region.len();
        piece(&range, true);
        sparse(&range, kernel).iter().for_each(|range| piece(range, false));
    }
}

/// The parts of a region for small pages.
fn sparse(region: &Range<u64>, kernel: &Range<u64>) -> [Range<u64>; 3] {
    let last = kernel.end - kernel.end % HUGE_PAGE_BYTES;
    let rest = if kernel.end - last < HUGE_PAGE_BYTES / 2 { HUGE_PAGE_BYTES } else { 0 };
    let within = |address: u64| address.clamp(region.start, region.end);
    [
        within(THIN.start)..within(THIN.end.min(kernel.start).max(THIN.start)),
        within(last)..within(last + rest),
        within(FIRST_BLOCK_END.start)..within(FIRST_BLOCK_END.end),
    ]
}

/// Puts `bytes` of a file, from `offset`, at a guest address.
///
/// # Errors
/// When the place is not in guest memory, or the file cannot be read or is shorter.
pub fn place_file(
    memory: &Memory,
    file: &File,
    offset: u64,
    address: u64,
    bytes: u64,
) -> Result<(), MemoryError> {
    if bytes == 0 {
        return Ok(());
    }
    let target = host_address(memory, address, bytes)?;
    sys::read_file_into(target, bytes as usize, file.as_fd(), offset).map_err(MemoryError::ReadFile)
}

/// Writes bytes into guest memory.
///
/// # Errors
/// When they do not fit.
pub fn write(memory: &Memory, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
    let outside = |_| MemoryError::Outside { address, bytes: bytes.len() as u64 };
    memory.write_slice(bytes, GuestAddress(address)).map_err(outside)
}

/// Where guest memory lies in this process.
#[must_use]
pub fn host_ranges(memory: &Memory) -> Vec<Range<u64>> {
    let range = |region: &GuestRegionMmap| {
        let start = region.as_ptr() as u64;
        start..start + region.len()
    };
    memory.iter().map(range).collect()
}

/// Where a range of guest memory lies in this process; the whole of it in one region.
pub(super) fn host_address(
    memory: &Memory,
    address: u64,
    bytes: u64,
) -> Result<*mut u8, MemoryError> {
    let outside = || MemoryError::Outside { address, bytes };
    let region = memory.find_region(GuestAddress(address)).ok_or_else(outside)?;
    let offset = address - region.start_addr().raw_value();
    if offset.checked_add(bytes).is_none_or(|end| end > region.len()) {
        return Err(outside());
    }
    memory.get_host_address(GuestAddress(address)).map_err(|_| outside())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::layout::HIGH_MEMORY_ADDRESS;
    use super::*;

    fn file_of(bytes: usize) -> (File, Vec<u8>) {
        let content: Vec<u8> = (0..bytes).map(|i| (i / 7) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        (file, content)
    }

    fn memory() -> Memory {
        allocate(MemoryLayout::of_mib(48), 0).unwrap()
    }

    #[test]
    fn a_file_is_placed_where_it_was_asked_for_and_nowhere_else() {
        let (file, content) = file_of(10_000);
        let memory = memory();
        write(&memory, 0x20_0000, &[0xaa; 4 * 4096]).unwrap();
        place_file(&memory, &file, 4099, 0x20_0001, 5000).unwrap();
        let mut seen = vec![0; 5002];
        memory.read_slice(&mut seen, GuestAddress(0x20_0000)).unwrap();
        assert_eq!((seen[0], seen[5001]), (0xaa, 0xaa));
        assert_eq!(seen[1..5001], content[4099..9099]);
    }

    #[test]
    fn room_for_more_lies_above_all_memory_at_a_blocks_boundary() {
        for mib in [48, 256, 3072, 3073, 5000] {
            let layout = MemoryLayout::of_mib(mib);
            let memory = allocate(layout, 3).unwrap();
            let last = memory.iter().last().unwrap();
            assert_eq!(last.start_addr().raw_value(), layout.hot_start());
            assert_eq!(last.len(), 3 * BLOCK_BYTES);
            assert!(layout.ranges().iter().all(|range| range.end <= layout.hot_start()));
            assert_eq!(layout.hot_start() % BLOCK_BYTES, 0);
        }
    }

    #[test]
    fn small_pages_lie_below_the_kernel_and_at_its_end() {
        const MIB: u64 = 1 << 20;
        let region = 0..256 * MIB;
        let kernel = 16 * MIB..30 * MIB + 4096;
        let expected = [2 * MIB..8 * MIB, 30 * MIB..32 * MIB, 126 * MIB..128 * MIB];
        assert_eq!(sparse(&region, &kernel), expected);
        let fuller = 16 * MIB..31 * MIB;
        assert!(sparse(&region, &fuller)[1].is_empty());
        let low = MIB..15 * MIB;
        assert!(sparse(&region, &low).iter().all(|piece| piece.start <= piece.end));
        let high = HIGH_MEMORY_ADDRESS..HIGH_MEMORY_ADDRESS + 1024 * MIB;
        assert!(sparse(&high, &kernel).iter().all(|piece| piece.is_empty()));
    }

    #[test]
    fn nothing_is_placed_past_the_end_of_memory() {
        let (file, _) = file_of(8192);
        let end = 48 << 20;
        let result = place_file(&memory(), &file, 0, end - 4096, 8192);
        assert!(matches!(result, Err(MemoryError::Outside { .. })), "{result:?}");
        let result = place_file(&memory(), &file, 0, u64::MAX - 4095, 8192);
        assert!(matches!(result, Err(MemoryError::Outside { .. })), "{result:?}");
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        let (file, _) = file_of(100);
        let result = place_file(&memory(), &file, 0, 0x20_0000, 101);
        assert!(matches!(result, Err(MemoryError::ReadFile(_))), "{result:?}");
    }
}
