//! The guest kernel: an uncompressed x86-64 ELF `vmlinux`, found out from its first bytes and
//! placed in guest memory.
//!
//! The file is the operator's, but may be truncated, of another machine or no kernel at all: each
//! has its own error, which `linux-loader`'s ELF loader does not give: it reads on to the end.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use super::layout::{KERNEL_MIN_ADDRESS, MemoryLayout, PAGE_BYTES};
use super::memory::{self, Memory, MemoryError};

/// The ELF header and the program headers lie in here: linkers put them first, and a kernel has a
/// handful of segments.
const HEAD_BYTES: usize = PAGE_BYTES as usize;
const ELF_HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;

const MAGIC: [u8; 4] = *b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;

/// Why a file is not a kernel that can be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelImageError {
    /// It cannot be read.
    #[error("The kernel image cannot be read")]
    Read(#[source] io::Error),
    /// The wrong kind of file.
    #[error("The kernel image is not an ELF file (an uncompressed vmlinux is needed)")]
    NotElf,
    /// An ELF file of another machine.
    #[error("The kernel image is not for x86-64")]
    WrongMachine,
    /// Its tables point nowhere.
    #[error("The kernel image has a damaged program header table")]
    ProgramHeaders,
    /// It is shorter than its own headers say.
    #[error("The kernel image is truncated: {length} bytes of {needed}")]
    Truncated {
        /// What is there.
        length: u64,
        /// What the headers speak of.
        needed: u64,
    },
    /// It does not fit between the PC's device region and the end of low memory.
    #[error("The kernel image needs memory up to {end:#x}, and low memory ends at {limit:#x}")]
    DoesNotFit {
        /// Where its last segment ends.
        end: u64,
        /// Where low memory ends.
        limit: u64,
    },
    /// It wants to lie where boot data and the PC's devices are.
    #[error("The kernel image wants to be loaded at {0:#x}, below 1 MiB")]
    TooLow(u64),
    /// Its first instruction is in none of its segments.
    #[error("The kernel image's entry point {0:#x} is not in it")]
    Entry(u64),
    /// It could not be placed.
    #[error("The kernel image cannot be placed in guest memory")]
    Place(#[from] MemoryError),
}

/// A part of the file that belongs in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    offset: u64,
    file_bytes: u64,
    address: u64,
    memory_bytes: u64,
}

impl Segment {
    fn end(&self) -> Option<u64> {
        self.address.checked_add(self.memory_bytes)
    }
}

/// A kernel image whose headers make sense.
#[derive(Debug, PartialEq, Eq)]
pub struct KernelImage {
    entry: u64,
    segments: Vec<Segment>,
}

impl KernelImage {
    /// Reads the headers of a kernel image.
    ///
    /// # Errors
    /// When it is not an x86-64 kernel, or truncated.
    pub fn open(file: &File) -> Result<Self, KernelImageError> {
        let length = file.metadata().map_err(KernelImageError::Read)?.len();
        let mut head = vec![0; HEAD_BYTES.min(usize::try_from(length).unwrap_or(HEAD_BYTES))];
        file.read_exact_at(&mut head, 0).map_err(KernelImageError::Read)?;
        Self::parse(&head, length)
    }

    /// Reads the headers from the first bytes of a file of `length` bytes.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn parse(head: &[u8], length: u64) -> Result<Self, KernelImageError> {
        let header = parse_header(head)?;
        let table = head
            .get(header.table_offset..)
            .and_then(|rest| rest.get(..header.table_entries * PROGRAM_HEADER_BYTES))
            .ok_or(KernelImageError::ProgramHeaders)?;
        let segments: Vec<_> =
            table.chunks_exact(PROGRAM_HEADER_BYTES).filter_map(parse_segment).collect();
        for segment in &segments {
            check_segment(segment, length)?;
        }
        let holds_entry = |segment: &Segment| {
            (segment.address..segment.address + segment.file_bytes).contains(&header.entry)
        };
        if !segments.iter().any(holds_entry) {
            return Err(KernelImageError::Entry(header.entry));
        }
        Ok(Self { entry: header.entry, segments })
    }

    /// The guest-physical address of the first instruction (64-bit boot protocol).
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Where the kernel lies in memory.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        let start = self.segments.iter().map(|segment| segment.address).min();
        let end = self.segments.iter().filter_map(Segment::end).max();
        start.unwrap_or(KERNEL_MIN_ADDRESS)..end.unwrap_or(KERNEL_MIN_ADDRESS)
    }

    /// Puts the kernel where its headers say.
    ///
    /// # Errors
    /// When it does not fit there, or cannot be read.
    pub fn place(
        &self,
        file: &File,
        memory: &Memory,
        layout: MemoryLayout,
    ) -> Result<(), KernelImageError> {
        let (end, limit) = (self.range().end, layout.low_end());
        if end > limit {
            return Err(KernelImageError::DoesNotFit { end, limit });
        }
        for segment in self.segments.iter().filter(|segment| segment.file_bytes > 0) {
            let Segment { offset, file_bytes, address, .. } = *segment;
            memory::place_file(memory, file, offset, address, file_bytes)?;
        }
        Ok(())
    }
}

struct ElfHeader {
    entry: u64,
    table_offset: usize,
    table_entries: usize,
}

fn parse_header(head: &[u8]) -> Result<ElfHeader, KernelImageError> {
    if head.len() < ELF_HEADER_BYTES || head[0..4] != MAGIC {
        return Err(KernelImageError::NotElf);
    }
    if head[4] != CLASS_64 || head[5] != LITTLE_ENDIAN || u16_at(head, 18) != MACHINE_X86_64 {
        return Err(KernelImageError::WrongMachine);
    }
    let entry_bytes = usize::from(u16_at(head, 54));
    let table_entries = usize::from(u16_at(head, 56));
    if entry_bytes != PROGRAM_HEADER_BYTES || table_entries == 0 {
        return Err(KernelImageError::ProgramHeaders);
    }
    let table_offset =
        usize::try_from(u64_at(head, 32)).map_err(|_| KernelImageError::ProgramHeaders)?;
    Ok(ElfHeader { entry: u64_at(head, 24), table_offset, table_entries })
}

/// A loadable segment; `None` for every other kind of program header.
fn parse_segment(header: &[u8]) -> Option<Segment> {
    let segment = Segment {
        offset: u64_at(header, 8),
        file_bytes: u64_at(header, 32),
        address: u64_at(header, 24),
        memory_bytes: u64_at(header, 40),
    };
    (u32_at(header, 0) == SEGMENT_LOAD && segment.memory_bytes > 0).then_some(segment)
}

fn check_segment(segment: &Segment, length: u64) -> Result<(), KernelImageError> {
    if segment.end().is_none() || segment.file_bytes > segment.memory_bytes {
        return Err(KernelImageError::ProgramHeaders);
    }
    if segment.address < KERNEL_MIN_ADDRESS {
        return Err(KernelImageError::TooLow(segment.address));
    }
    match segment.offset.checked_add(segment.file_bytes) {
        None => Err(KernelImageError::ProgramHeaders),
        Some(needed) if needed > length => Err(KernelImageError::Truncated { length, needed }),
        Some(_) => Ok(()),
    }
}

/// Fixed-width fields; the callers have checked that the header is whole.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A kernel with one segment of 4 KiB in the file and 8 KiB in memory.
    fn image(offset: u64, address: u64, entry: u64) -> Vec<u8> {
        let mut head = vec![0; HEAD_BYTES];
        head[0..4].copy_from_slice(&MAGIC);
        head[4] = CLASS_64;
        head[5] = LITTLE_ENDIAN;
        head[18] = MACHINE_X86_64 as u8;
        head[24..32].copy_from_slice(&entry.to_le_bytes());
        head[32..40].copy_from_slice(&64_u64.to_le_bytes());
        head[54] = PROGRAM_HEADER_BYTES as u8;
        head[56] = 1;
        let header = &mut head[64..64 + PROGRAM_HEADER_BYTES];
        header[0] = SEGMENT_LOAD as u8;
        header[8..16].copy_from_slice(&offset.to_le_bytes());
        header[24..32].copy_from_slice(&address.to_le_bytes());
        header[32..40].copy_from_slice(&4096_u64.to_le_bytes());
        header[40..48].copy_from_slice(&8192_u64.to_le_bytes());
        head
    }

    #[test]
    fn a_kernel_is_taken_with_its_entry_and_end() {
        let image = KernelImage::parse(&image(4096, 16 * MIB, 16 * MIB), 8192).unwrap();
        assert_eq!((image.entry(), image.range()), (16 * MIB, 16 * MIB..16 * MIB + 8192));
    }

    #[test]
    fn a_file_that_is_no_kernel_is_named_as_such() {
        let error = KernelImage::parse(b"#!/bin/sh\n", 10).unwrap_err();
        assert!(matches!(error, KernelImageError::NotElf));
        let mut other = image(4096, 16 * MIB, 16 * MIB);
        other[18] = 183;
        let error = KernelImage::parse(&other, 8192).unwrap_err();
        assert!(matches!(error, KernelImageError::WrongMachine));
    }

    #[test]
    fn a_truncated_kernel_says_how_much_is_there() {
        let error = KernelImage::parse(&image(4096, 16 * MIB, 16 * MIB), 5000).unwrap_err();
        assert_eq!(error.to_string(), "The kernel image is truncated: 5000 bytes of 8192");
    }

    #[test]
    fn a_kernel_for_a_place_that_is_not_there_is_refused() {
        let low = KernelImage::parse(&image(4096, 4096, 4096), 8192).unwrap_err();
        assert!(matches!(low, KernelImageError::TooLow(4096)));
        let entry = KernelImage::parse(&image(4096, 16 * MIB, 17 * MIB), 8192).unwrap_err();
        assert!(matches!(entry, KernelImageError::Entry(_)));
        let high = KernelImage::parse(&image(4096, 64 * MIB, 64 * MIB), 8192).unwrap();
        let layout = MemoryLayout::of_mib(64);
        let memory = memory::allocate(layout, 0).unwrap();
        let error = high.place(&tempfile::tempfile().unwrap(), &memory, layout).unwrap_err();
        assert!(matches!(error, KernelImageError::DoesNotFit { .. }));
    }

    proptest! {
        #[test]
        fn arbitrary_heads_never_panic(
            tail in proptest::collection::vec(any::<u8>(), 0..512),
            length in any::<u64>(),
        ) {
            let mut head = MAGIC.to_vec();
            head.extend([CLASS_64, LITTLE_ENDIAN]);
            head.extend(tail);
            let _ = KernelImage::parse(&head, length);
        }

        #[test]
        fn damaged_headers_never_place_outside_of_the_file(
            position in 0_usize..128,
            byte in any::<u8>(),
            length in 0_u64..16_384,
        ) {
            let mut head = image(4096, 16 * MIB, 16 * MIB);
            head[position] = byte;
            if let Ok(image) = KernelImage::parse(&head, length) {
                for segment in image.segments {
                    prop_assert!(segment.offset + segment.file_bytes <= length);
                }
            }
        }
    }
}
