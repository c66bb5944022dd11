//! `FUSE_TMPFILE`: files that are made without a name (`O_TMPFILE`).
//!
//! fuse-backend-rs does not know this request; its answer would be that there are no such files.
//!
//! Hostile: the whole message. One that is cut short gets no answer, as any that is no request.

use std::io::{self, Write};

use fuse_backend_rs::abi::fuse_abi::{CreateIn, EntryOut, InHeader, OpenOut, OutHeader};
use fuse_backend_rs::api::filesystem::{Context, Entry};
use fuse_backend_rs::transport::{Reader, VirtioFsWriter};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::attributes;
use super::tree::{Tree, host_flags, permissions};
use crate::memory::{Bytes as _, GuestAddress, GuestRam};
use crate::queue::FuseChain;

/// The request's number in `linux/fuse.h`.
const FUSE_TMPFILE: u32 = 51;
/// Where in a request its number is.
const OPCODE_OFFSET: u64 = 4;

/// Whether a chain holds such a request. A header in several pieces, which no driver makes, is
/// not looked for.
pub(super) fn is_wanted(chain: &FuseChain<'_>, memory: &GuestRam) -> bool {
    let Some(first) = chain.clone().readable().next() else { return false };
    let Some(address) = first.addr().0.checked_add(OPCODE_OFFSET) else { return false };
    let whole = first.len() as usize >= size_of::<InHeader>();
    whole && memory.read_obj(GuestAddress(address)).is_ok_and(|opcode: u32| opcode == FUSE_TMPFILE)
}

/// Serves the request; the length of the answer.
pub(super) fn answer(
    tree: &Tree,
    mut request: Reader<'_>,
    answer: &mut VirtioFsWriter<'_>,
) -> io::Result<usize> {
    let header: InHeader = request.read_obj()?;
    let wanted: CreateIn = request.read_obj()?;
    let outcome = make(tree, &Context::from(&header), header.nodeid, wanted);
    let (error, body) = match outcome {
        Ok((entry, fh)) => (0, Some((entry, fh))),
        Err(error) => (-error.raw_os_error().unwrap_or(libc::EIO), None),
    };
    let payload = if body.is_some() { size_of::<EntryOut>() + size_of::<OpenOut>() } else { 0 };
    let len = u32::try_from(size_of::<OutHeader>() + payload).map_err(|_| Errno::OVERFLOW)?;
    answer.write_obj(OutHeader { len, error, unique: header.unique })?;
    if let Some((entry, fh)) = body {
        answer.write_obj(EntryOut::from(entry))?;
        answer.write_obj(OpenOut { fh, ..OpenOut::default() })?;
    }
    answer.flush()?;
    Ok(answer.bytes_written())
}

/// Makes a file without a name, as its owner, and opens it.
pub(super) fn make(
    tree: &Tree,
    caller: &Context,
    parent: u64,
    wanted: CreateIn,
) -> io::Result<(Entry, u64)> {
    let mut state = tree.state();
    tree.check_room(&state)?;
    let folder = state.inodes.get(parent)?;
    let (parent_mount, shared) = (folder.key.mount, folder.shared);
    // Without O_EXCL the guest may give it a name later.
    let unlinkable = OFlags::from_bits_retain(wanted.flags) & OFlags::EXCL;
    let flags = host_flags(wanted.flags) | unlinkable | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mode = permissions(wanted.mode, wanted.umask);
    let path = DecInt::from_fd(&folder.file);
    let made = tree
        .identity
        .as_owner(caller, || Ok(openat(&tree.descriptors, path.as_c_str(), flags, mode)?));
    let file = made?;
    let name = DecInt::from_fd(&file);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let known = openat(&tree.descriptors, name.as_c_str(), flags, Mode::empty())?;
    let seen = attributes::look(&known)?;
    let number = state.inodes.remember(known, &seen, shared);
    let entry = tree.entry(&state, number, &seen, parent_mount);
    Ok((entry, tree.keep(&mut state, number, file, wanted.flags)))
}
