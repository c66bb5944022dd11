//! Guest memory as a file: written without the pages that are zero, and mapped so that what the
//! guest writes stays its own.
//!
//! The file has the guest's ranges one after the other. Pages that the guest never touched, or
//! cleared, are holes: the file takes as much room as the guest has filled.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;

use vm_memory::{
    Bytes as _, GuestAddress, GuestMemory as _, GuestMemoryRegion as _, GuestRegionMmap,
};

use super::layout::{HUGE_PAGE_BYTES, MemoryLayout, PAGE_BYTES};
use super::memory::{Memory, MemoryError};
use super::sys;

/// Looked at in one go: small enough for the cache.
const CHUNK_BYTES: usize = 128 << 10;

/// Why memory was not written.
#[derive(Debug, thiserror::Error)]
pub enum MemoryFileError {
    /// The file.
    #[error("The guest's memory cannot be written")]
    Write(#[source] io::Error),
    /// Memory itself.
    #[error("The guest's memory cannot be read")]
    Read(#[source] vm_memory::GuestMemoryError),
}

/// Writes the memory that a guest began with into a file that is empty and has its full length.
///
/// # Errors
/// When it cannot be written.
pub fn write(
    memory: &Memory,
    layout: MemoryLayout,
    mut file: &File,
) -> Result<(), MemoryFileError> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut place = 0;
    for region in memory.iter().take(layout.ranges().len()) {
        let (start, length) = (region.start_addr().0, region.len());
        let mut done = 0;
        while done < length {
            let count = (length - done).min(CHUNK_BYTES as u64) as usize;
            let bytes = &mut chunk[..count];
            memory.read_slice(bytes, GuestAddress(start + done)).map_err(MemoryFileError::Read)?;
            write_pages(&mut file, place + done, bytes).map_err(MemoryFileError::Write)?;
            done += count as u64;
        }
        place += length;
    }
    Ok(())
}

/// Writes the pages that are not zero, as many as there are together in one go.
fn write_pages(file: &mut &File, place: u64, bytes: &[u8]) -> io::Result<()> {
    let mut pages = bytes.chunks(PAGE_BYTES as usize).map(is_zero).enumerate().peekable();
    while let Some((first, zero)) = pages.next() {
        if zero {
            continue;
        }
        let mut end = first + 1;
        while pages.next_if(|(_, zero)| !zero).is_some() {
            end += 1;
        }
        let page = PAGE_BYTES as usize;
        let piece = bytes.get(first * page..(end * page).min(bytes.len())).unwrap_or_default();
        file.seek(SeekFrom::Start(place + (first * page) as u64))?;
        file.write_all(piece)?;
    }
    Ok(())
}

fn is_zero(page: &[u8]) -> bool {
    // Whole words at a time, which the compiler makes wide.
    let (words, rest) = page.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// The guest's RAM, as a file has it. What the guest writes does not reach the file.
///
/// # Errors
/// When the file has another length, or the address space no room.
pub fn map(layout: MemoryLayout, file: &File) -> Result<Memory, MemoryError> {
    let ranges = layout.ranges();
    let expected: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let found = file.metadata().map_err(MemoryError::ReadFile)?.len();
    if found != expected {
        return Err(MemoryError::Length { found, expected });
    }
    let mut regions = Vec::with_capacity(ranges.len());
    let mut offset = 0;
    for range in ranges {
        let bytes = range.end - range.start;
        let mapping =
            sys::map_file_aligned(bytes as usize, HUGE_PAGE_BYTES as usize, file.as_fd(), offset)
                .map_err(|source| MemoryError::Map { bytes, source })?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(range.start));
        regions.push(region.ok_or(MemoryError::Wrap)?);
        offset += bytes;
    }
    Memory::from_regions(regions).map_err(MemoryError::Regions)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::super::memory;
    use super::*;

    fn file_for(layout: MemoryLayout) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(layout.ranges().iter().map(|range| range.end - range.start).sum()).unwrap();
        file
    }

    #[test]
    fn memory_comes_back_from_a_file_with_holes_and_stays_the_guests_own() {
        let layout = MemoryLayout::of_mib(48);
        let saved = memory::allocate(layout, 1).unwrap();
        let pieces = [(0x1000, 1u8), (0x1f_fff0, 2), (0x2f_f000, 3), ((48 << 20) - 16, 4)];
        for (address, value) in pieces {
            memory::write(&saved, address, &[value; 16]).unwrap();
        }
        let file = file_for(layout);
        write(&saved, layout, &file).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
        let read = |memory: &Memory, address| {
            let mut bytes = [0; 16];
            memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
            bytes
        };
        let restored = map(layout, &file).unwrap();
        for (address, value) in pieces {
            assert_eq!(read(&restored, address), [value; 16]);
        }
        memory::write(&restored, 0x1000, &[9; 16]).unwrap();
        assert_eq!(read(&map(layout, &file).unwrap(), 0x1000), [1; 16]);
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let file = file_for(MemoryLayout::of_mib(48));
        let error = map(MemoryLayout::of_mib(64), &file).unwrap_err();
        assert!(matches!(error, MemoryError::Length { .. }), "{error}");
    }
}
