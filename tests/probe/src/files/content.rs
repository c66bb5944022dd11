//! What is in files: appended, punched, mapped, gone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nix::libc;
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};

use super::{Outcome, could, role, same};
use crate::sys::Mapping;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn opened(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Two who append do not write over each other.
pub(super) fn append(folder: &Path) -> Outcome {
    let path = folder.join("file");
    let open = || OpenOptions::new().append(true).create(true).open(&path);
    let (mut one, mut other) = (open()?, open()?);
    for round in 0..20 {
        writeln!(one, "one {round}")?;
        writeln!(other, "other {round}")?;
    }
    let expected: String = (0..20).map(|round| format!("one {round}\nother {round}\n")).collect();
    same("what both appended", fs::read_to_string(&path)?, expected)
}

/// What was never written takes no room, is zero, and is found.
pub(super) fn holes(folder: &Path) -> Outcome {
    let file = opened(&folder.join("file"))?;
    file.set_len(16 * MIB)?;
    file.write_all_at(b"data", 8 * MIB)?;
    file.sync_all()?;
    let taken = file.metadata()?.blocks() * 512;
    same("a sparse file takes little", taken <= MIB, true)?;
    let mut bytes = [1; 16];
    file.read_exact_at(&mut bytes, 4 * MIB)?;
    same("a hole's content", bytes, [0; 16])?;
    same("the first hole", seek(&file, SeekFrom::Hole(0))?, 0)?;
    let data = seek(&file, SeekFrom::Data(0))?;
    same("data begins before what was written", (7 * MIB..=8 * MIB).contains(&data), true)?;
    let hole = seek(&file, SeekFrom::Hole(8 * MIB))?;
    same("a hole comes after it", (8 * MIB + 4..=9 * MIB).contains(&hole), true)?;
    super::refused("data after the last", seek(&file, SeekFrom::Data(12 * MIB)), libc::ENXIO)
}

/// Room can be taken back out of a file, and put aside for it.
pub(super) fn punched_holes(folder: &Path) -> Outcome {
    let file = opened(&folder.join("file"))?;
    file.write_all_at(&[7; 1 << 20], 0)?;
    file.sync_all()?;
    let before = file.metadata()?.blocks();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 256 * KIB, 512 * KIB)?;
    same("the size", file.metadata()?.len(), MIB)?;
    same("it is smaller", file.metadata()?.blocks() < before, true)?;
    let mut bytes = vec![1; 512 << 10];
    file.read_exact_at(&mut bytes, 256 * KIB)?;
    same("the hole is zero", bytes.iter().all(|&byte| byte == 0), true)?;
    file.read_exact_at(&mut bytes[..16], 256 * KIB - 16)?;
    same("what is before it is not", &bytes[..16], &[7; 16])?;
    fallocate(&file, FallocateFlags::empty(), 0, 2 * MIB)?;
    same("the size with what was put aside", file.metadata()?.len(), 2 * MIB)?;
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 3 * MIB)?;
    same("the size without", file.metadata()?.len(), 2 * MIB)
}

/// A mapping and a file are one content.
pub(super) fn shared_mapping(folder: &Path) -> Outcome {
    let file = opened(&folder.join("file"))?;
    file.set_len(64 * KIB)?;
    let mapping = Mapping::shared(&file, 64 << 10)?;
    mapping.write(5000, b"by mapping");
    let mut bytes = [0; 10];
    file.read_exact_at(&mut bytes, 5000)?;
    same("a read of what was mapped", &bytes, b"by mapping")?;
    file.write_all_at(b"by writing", 40_000)?;
    same("a mapping of what was written", mapping.read(40_000, 10), b"by writing".to_vec())?;
    mapping.sync()?;
    drop(mapping);
    let again = fs::read(folder.join("file"))?;
    same("the content afterwards", &again[5000..5010], b"by mapping")
}

/// Two processes that map a file see each other's changes.
pub(super) fn mapping_of_two_processes(folder: &Path) -> Outcome {
    let path = folder.join("file");
    let file = opened(&path)?;
    file.set_len(64 * KIB)?;
    let mapping = Mapping::shared(&file, 64 << 10)?;
    mapping.write(0, b"question");
    same("the other could", could(&mut role("map", &path))?, true)?;
    same("its answer", mapping.read(8192, 6), b"answer".to_vec())
}

/// The other process of the case above.
pub(super) fn change_by_mapping(path: &Path) -> io::Result<()> {
    let mapping = Mapping::shared(&opened(path)?, 64 << 10)?;
    if mapping.read(0, 8) != b"question" {
        return Err(io::ErrorKind::InvalidData.into());
    }
    mapping.write(8192, b"answer");
    Ok(())
}

/// A file lives as long as it is open.
pub(super) fn unlinked_but_open(folder: &Path) -> Outcome {
    let path = folder.join("file");
    let file = opened(&path)?;
    file.write_all_at(b"before", 0)?;
    fs::remove_file(&path)?;
    same("links", file.metadata()?.nlink(), 0)?;
    file.write_all_at(b"after", 6)?;
    file.set_len(9)?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640))?;
    same("its mode", file.metadata()?.mode() & 0o777, 0o640)?;
    let mut bytes = [0; 9];
    file.read_exact_at(&mut bytes, 0)?;
    same("its content", &bytes, b"beforeaft")?;
    File::create(&path)?.write_all(b"another")?;
    same("the name's new file", fs::read(&path)?, b"another".to_vec())?;
    fs::rename(&path, folder.join("renamed"))?;
    file.read_exact_at(&mut bytes, 0)?;
    same("the content of the old one", &bytes, b"beforeaft")
}

/// `copy_file_range`, within a file system.
pub(super) fn copied_ranges(folder: &Path) -> Outcome {
    let (from, to) = (opened(&folder.join("from"))?, opened(&folder.join("to"))?);
    from.write_all_at(b"0123456789", 0)?;
    let (mut here, mut there) = (2, 4);
    let copied = copy_file_range(&from, Some(&mut here), &to, Some(&mut there), 5)?;
    same("bytes copied", copied, 5)?;
    same("what is there", fs::read(folder.join("to"))?, b"\0\0\0\x0023456".to_vec())
}
