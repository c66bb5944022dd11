//! The guest's first file system: a cpio archive at the end of low memory, where the
//! kernel leaves it alone until it has unpacked it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::boot_params::InitramfsPlace;
use super::layout::{MemoryLayout, PAGE_BYTES, page_ceil};
use super::memory::{self, Memory, MemoryError};

/// How an archive of the kind that the kernel takes begins ("newc", uncompressed: unpacking is
/// what the boot would wait for).
const MAGIC: [u8; 6] = *b"070701";

/// Why a file cannot be the guest's first file system.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// It cannot be read.
    #[error("The initramfs cannot be read")]
    Read(#[source] io::Error),
    /// The wrong kind of file.
    #[error("The initramfs is not an uncompressed cpio archive (newc)")]
    NotCpio,
    /// Archives are made of blocks of four bytes and end with one; this one does not.
    #[error("The initramfs is truncated: its last entry is missing")]
    Truncated,
    /// There is no room above the kernel.
    #[error(
        "The initramfs of {bytes} bytes does not fit above the kernel, which ends at {kernel_end:#x}"
    )]
    DoesNotFit {
        /// Its length.
        bytes: u64,
        /// Where the kernel ends.
        kernel_end: u64,
    },
    /// It could not be placed.
    #[error("The initramfs cannot be placed in guest memory")]
    Place(#[from] MemoryError),
}

/// Puts the archive at the end of low memory, above `kernel_end`.
///
/// # Errors
/// When it is no whole archive, does not fit, or cannot be read.
pub fn place(
    file: &File,
    memory: &Memory,
    layout: MemoryLayout,
    kernel_end: u64,
) -> Result<InitramfsPlace, InitramfsError> {
    let bytes = file.metadata().map_err(InitramfsError::Read)?.len();
    check(file, bytes)?;
    let place = find_place(bytes, layout, kernel_end)?;
    memory::place_file(memory, file, 0, u64::from(place.address), bytes)?;
    Ok(place)
}

fn check(file: &File, bytes: u64) -> Result<(), InitramfsError> {
    let mut magic = [0; MAGIC.len()];
    match file.read_exact_at(&mut magic, 0) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            return Err(InitramfsError::Read(error));
        }
        _ if magic != MAGIC => return Err(InitramfsError::NotCpio),
        _ => {}
    }
    let tail_bytes = bytes.min(PAGE_BYTES);
    let mut tail = vec![0; tail_bytes as usize];
    file.read_exact_at(&mut tail, bytes - tail_bytes).map_err(InitramfsError::Read)?;
    if tail.windows(LAST_ENTRY.len()).any(|window| window == LAST_ENTRY) {
        Ok(())
    } else {
        Err(InitramfsError::Truncated)
    }
}

/// The name of the entry that ends every archive; padding after it is less than a page.
const LAST_ENTRY: &[u8] = b"TRAILER!!!\0";

fn find_place(
    bytes: u64,
    layout: MemoryLayout,
    kernel_end: u64,
) -> Result<InitramfsPlace, InitramfsError> {
    let does_not_fit = InitramfsError::DoesNotFit { bytes, kernel_end };
    let address = layout.low_end().checked_sub(page_ceil(bytes));
    match address {
        Some(address) if address >= page_ceil(kernel_end) => Ok(InitramfsPlace {
            // Low memory ends below 4 GiB, and so does what is in it.
            address: address as u32,
            bytes: bytes as u32,
        }),
        _ => Err(does_not_fit),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn placed(content: &[u8], kernel_end: u64) -> Result<InitramfsPlace, InitramfsError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let layout = MemoryLayout::of_mib(48);
        place(&file, &memory::allocate(layout, 0).unwrap(), layout, kernel_end)
    }

    fn archive(bytes: usize) -> Vec<u8> {
        let mut content = MAGIC.to_vec();
        content.resize(bytes, 0);
        content.extend(LAST_ENTRY);
        content
    }

    #[test]
    fn an_archive_lies_at_the_end_of_low_memory() {
        let place = placed(&archive(5000), 32 << 20).unwrap();
        assert_eq!((place.address, place.bytes), ((48 << 20) - 8192, 5011));
    }

    #[test]
    fn what_is_no_whole_archive_is_refused() {
        assert!(matches!(placed(b"", 0), Err(InitramfsError::NotCpio)));
        assert!(matches!(placed(b"\x1f\x8b compressed", 0), Err(InitramfsError::NotCpio)));
        let mut cut = archive(5000);
        cut.truncate(5003);
        assert!(matches!(placed(&cut, 0), Err(InitramfsError::Truncated)));
    }

    #[test]
    fn the_kernel_is_not_overwritten() {
        let error = placed(&archive(5000), (48 << 20) - 4096).unwrap_err();
        assert!(matches!(error, InitramfsError::DoesNotFit { .. }));
    }
}
