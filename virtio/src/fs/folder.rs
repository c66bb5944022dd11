//! Reading folders.
//!
//! A look-up that comes with an entry counts in the guest, so one that did not fit into the answer
//! is taken back. An entry that cannot be looked up (gone again, or no descriptor left) is given
//! without attributes.

use std::io;

use fuse_backend_rs::api::filesystem::{DirEntry, Entry};
use rustix::fs::{RawDir, SeekFrom, seek};

use super::tree::{State, Tree};

/// Enough for any one entry: a name of 255 bytes and its header.
const MIN_BUFFER_BYTES: usize = 512;
/// More than the guest's page is read again with the next request.
const MAX_BUFFER_BYTES: usize = 32 << 10;
/// With its attributes an entry is about so many times as large in the answer as in the buffer.
const ATTRIBUTES_FACTOR: usize = 4;

/// Where in a folder to begin, and how large the answer may be.
type Window = (u32, u64);
/// The number of an open folder, and of its inode.
type OpenFolder = (u64, u64);

/// Names only.
pub(super) fn read(
    tree: &Tree,
    folder: OpenFolder,
    window: Window,
    add: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
) -> io::Result<()> {
    walk(tree, folder, window, 1, |_, entry| add(entry))
}

/// Names, each with what a look-up of it would give.
pub(super) fn read_with_attributes(
    tree: &Tree,
    folder: OpenFolder,
    window: Window,
    add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
) -> io::Result<()> {
    walk(tree, folder, window, ATTRIBUTES_FACTOR, |state, mut entry| {
        let found = match entry.name {
            b"." | b".." => tree.nothing(),
            name => look_up(tree, state, folder.1, name),
        };
        if found.inode != 0 {
            entry.ino = found.attr.st_ino;
            // A file may stand in for a device.
            entry.type_ = found.attr.st_mode >> 12;
        }
        let added = add(entry, found);
        if !matches!(added, Ok(1..)) {
            state.forget(found.inode, 1);
        }
        added
    })
}

fn look_up(tree: &Tree, state: &mut State, folder: u64, name: &[u8]) -> Entry {
    let name = std::ffi::CString::new(name).ok();
    let found = name.and_then(|name| tree.look_up(state, folder, &name).ok());
    found.unwrap_or_else(|| tree.nothing())
}

fn walk(
    tree: &Tree,
    (handle, inode): OpenFolder,
    (size, offset): Window,
    factor: usize,
    mut add: impl FnMut(&mut State, DirEntry<'_>) -> io::Result<usize>,
) -> io::Result<()> {
    let mut state = tree.state();
    let folder = state.handle(handle, inode)?.file.try_clone()?;
    seek(&folder, SeekFrom::Start(offset))?;
    let wanted = usize::try_from(size).unwrap_or(MAX_BUFFER_BYTES) / factor;
    let mut buffer = std::mem::take(&mut state.entries);
    buffer
        .resize(wanted.clamp(MIN_BUFFER_BYTES, MAX_BUFFER_BYTES), std::mem::MaybeUninit::uninit());
    let done = give(&mut state, RawDir::new(&folder, &mut buffer), &mut add);
    state.entries = buffer;
    done
}

fn give(
    state: &mut State,
    mut entries: RawDir<'_, &std::fs::File>,
    add: &mut impl FnMut(&mut State, DirEntry<'_>) -> io::Result<usize>,
) -> io::Result<()> {
    let mut given = false;
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            // What was given before it must reach the guest, which has counted it.
            Err(_) if given => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let entry = DirEntry {
            ino: entry.ino(),
            offset: entry.next_entry_cookie(),
            type_: entry.file_type().as_raw_mode() >> 12,
            name: entry.file_name().to_bytes(),
        };
        match add(state, entry) {
            Ok(0) => return Ok(()),
            Ok(_) => given = true,
            Err(_) if given => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
