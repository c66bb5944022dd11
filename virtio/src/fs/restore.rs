//! What the guest knows of its files, written down as paths, and found again by them.
//!
//! ```text
//!  number ─▶ descriptor ─▶ its path, seen from the root of the shares ─▶ (file)
//!  (file) ─▶ path ─▶ name by name below the root, no link followed ─▶ descriptor ─▶ number
//! ```
//!
//! A file that is open must be there, of the same kind and length: a guest that wrote half of it
//! would go on in another. One that the guest only remembers may be gone: its number then stands
//! for nothing (`ESTALE`), and the guest's kernel looks the name up again, as it does whenever the
//! host removes a file behind its back.
//!
//! Hostile: a snapshot's paths and numbers. They reach nothing that a guest's requests could not.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use fuse_backend_rs::api::filesystem::ROOT_ID;
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, openat, readlinkat};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::attributes::{self, FileKey};
use super::inodes::{Inode, Inodes};
use super::table::Table;
use super::tree::{Handle, State, Tree, component};
use crate::saved::{FsState, HandleState, InodeState, SavedPath};

/// Of the flags that a file is open with, those to open it with again.
const REOPEN_FLAGS: OFlags = OFlags::RDWR
    .union(OFlags::WRONLY)
    .union(OFlags::APPEND)
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC)
    .union(OFlags::NOATIME)
    .union(OFlags::DIRECTORY);

/// Why what a guest knows of its files cannot be written down.
#[derive(Debug, thiserror::Error)]
pub enum FsSaveError {
    /// A snapshot names files by their paths.
    #[error(
        "{path} is open and was removed: a file without a name cannot be found again. Have the container close it"
    )]
    Unlinked {
        /// Its name when it had one.
        path: String,
    },
    /// The host's kernel does not say.
    #[error("The host does not say where an open file is")]
    Look(#[source] io::Error),
    /// The file server does not answer.
    #[error("The file server does not answer")]
    Silent,
}

/// Why a guest's files are not found again.
#[derive(Debug, thiserror::Error)]
pub enum FsRestoreError {
    /// An open file.
    #[error("{path}, which is open in the snapshot, cannot be opened")]
    Open {
        /// From the root of the shares.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// Another file.
    #[error("{path}, which is open in the snapshot, is a file of another kind now")]
    Kind {
        /// From the root of the shares.
        path: String,
    },
    /// The file has changed.
    #[error("{path}, which is open in the snapshot with {expected} bytes, has {found}")]
    Size {
        /// From the root of the shares.
        path: String,
        /// Now.
        found: u64,
        /// Then.
        expected: u64,
    },
    /// More files than descriptors are allowed.
    #[error("The snapshot knows {files} files, and {most} are possible here")]
    TooMany {
        /// In the snapshot.
        files: usize,
        /// Here.
        most: usize,
    },
    /// The numbers do not make sense.
    #[error("The snapshot's table of files is damaged")]
    Damaged,
    /// The root itself.
    #[error("The root of the shares cannot be opened again")]
    Root(#[source] io::Error),
}

impl Tree {
    /// Writes down what the guest knows.
    pub(super) fn save(&self) -> Result<FsState, FsSaveError> {
        let state = self.state();
        let root = state.inodes.get(ROOT_ID).map_err(FsSaveError::Look)?;
        let mut inodes = Vec::with_capacity(state.inodes.len());
        for (number, generation, inode) in state.inodes.iter() {
            if number != ROOT_ID {
                let path = self.path_of(&root.file, &state, number, inode)?;
                inodes.push(inode_state(number, generation, inode, path));
            }
        }
        let handles = state.handles.iter().map(|(number, generation, handle)| {
            handle_state(number, generation, handle).map_err(FsSaveError::Look)
        });
        Ok(FsState { inodes, handles: handles.collect::<Result<_, _>>()? })
    }

    /// Where a file is; nothing when it has no name and is not open.
    fn path_of(
        &self,
        root: &OwnedFd,
        state: &State,
        number: u64,
        inode: &Inode,
    ) -> Result<Option<SavedPath>, FsSaveError> {
        if inode.gone {
            return Ok(None);
        }
        let (seen, above) = (self.name_of(&inode.file)?, self.name_of(root)?);
        let below = seen.strip_prefix(above.as_slice()).unwrap_or(&seen);
        let path = below.strip_prefix(b"/").unwrap_or(below).to_vec();
        let same = find(root, &path).and_then(|file| key_of(&file));
        if same.is_ok_and(|key| key == inode.key) {
            return Ok(Some(path.into()));
        }
        match state.handles.iter().any(|(_, _, handle)| handle.inode == number) {
            true => Err(FsSaveError::Unlinked { path: shown(&path) }),
            false => Ok(None),
        }
    }

    /// What the kernel calls an open file.
    fn name_of(&self, file: &OwnedFd) -> Result<Vec<u8>, FsSaveError> {
        let seen = readlinkat(&self.descriptors, DecInt::from_fd(file), Vec::new());
        Ok(seen.map_err(|error| FsSaveError::Look(error.into()))?.into_bytes())
    }

    /// Takes over what [`Self::save`] gave.
    pub(super) fn restore(&self, saved: &FsState) -> Result<(), FsRestoreError> {
        let (files, most) = (saved.inodes.len() + saved.handles.len(), self.max_descriptors);
        if files >= most {
            return Err(FsRestoreError::TooMany { files, most });
        }
        let mut state = self.state();
        state.inodes = self.find_inodes(&state, saved)?;
        let mut handles = Vec::with_capacity(saved.handles.len());
        for handle in &saved.handles {
            handles.push((
                handle.number,
                handle.generation,
                self.open_again(&state, saved, handle)?,
            ));
        }
        state.handles = Table::restored(handles, most).ok_or(FsRestoreError::Damaged)?;
        Ok(())
    }

    fn find_inodes(&self, state: &State, saved: &FsState) -> Result<Inodes, FsRestoreError> {
        let copy = |file: &OwnedFd| file.try_clone().map_err(FsRestoreError::Root);
        let root = &state.inodes.get(ROOT_ID).map_err(FsRestoreError::Root)?.file;
        let key = key_of(root).map_err(FsRestoreError::Root)?;
        let rooted = Inode {
            file: copy(root)?,
            key,
            kind: FileType::Directory,
            opened: None,
            lookups: 1,
            shared: false,
            set_id: false,
            gone: false,
        };
        let mut inodes = vec![(ROOT_ID, 0, rooted)];
        for wanted in &saved.inodes {
            let found = wanted.path.as_ref().and_then(|path| find(root, path.bytes()).ok());
            let found = found.and_then(|file| key_of(&file).ok().map(|key| (file, key)));
            let same_kind = |file: &OwnedFd| kind_of(file).is_ok_and(|kind| kind == wanted.kind);
            let found = found.filter(|(file, _)| same_kind(file));
            let gone = found.is_none();
            let (file, key) = match found {
                Some(found) => found,
                None => (copy(root)?, key),
            };
            let kind = FileType::from_raw_mode(wanted.kind);
            let opened = wanted.opened.map(Into::into);
            let lookups = wanted.lookups;
            // Whether it has a set-id bit is seen when it is written to.
            let inode =
                Inode { file, key, kind, opened, shared: false, set_id: true, lookups, gone };
            inodes.push((wanted.number, wanted.generation, inode));
        }
        Inodes::restored(inodes, self.max_descriptors).ok_or(FsRestoreError::Damaged)
    }

    fn open_again(
        &self,
        state: &State,
        saved: &FsState,
        wanted: &HandleState,
    ) -> Result<Handle, FsRestoreError> {
        let path = || path_in(saved, wanted.inode);
        let open = |source| FsRestoreError::Open { path: path(), source };
        let inode = state.inodes.get(wanted.inode).map_err(open)?;
        let flags = OFlags::from_bits_retain(wanted.flags) & REOPEN_FLAGS;
        let file = self.reopen(inode, flags).map_err(open)?;
        let seen = attributes::look(&file).map_err(open)?;
        let regular = inode.kind == FileType::RegularFile;
        match wanted.size {
            Some(expected) if regular && expected != seen.stx_size => {
                Err(FsRestoreError::Size { path: path(), found: seen.stx_size, expected })
            }
            Some(_) if !regular => Err(FsRestoreError::Kind { path: path() }),
            _ => {
                let append = flags.contains(OFlags::APPEND);
                Ok(Handle { file: File::from(file), inode: wanted.inode, append })
            }
        }
    }
}

fn inode_state(number: u64, generation: u64, inode: &Inode, path: Option<SavedPath>) -> InodeState {
    InodeState {
        number,
        generation,
        path,
        kind: inode.kind.as_raw_mode(),
        lookups: inode.lookups,
        opened: inode.opened.map(Into::into),
    }
}

fn handle_state(number: u64, generation: u64, handle: &Handle) -> io::Result<HandleState> {
    let seen = attributes::look(&handle.file)?;
    let regular = FileType::from_raw_mode(seen.stx_mode.into()) == FileType::RegularFile;
    Ok(HandleState {
        number,
        generation,
        inode: handle.inode,
        flags: (fcntl_getfl(&handle.file)? & REOPEN_FLAGS).bits(),
        size: regular.then_some(seen.stx_size),
    })
}

/// Opens what is at a path below the root, name by name.
fn find(root: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    let mut file = root.try_clone()?;
    for name in path.split(|byte| *byte == b'/') {
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        file = openat(&file, component(&name)?, flags, Mode::empty())?;
    }
    Ok(file)
}

fn key_of(file: impl AsFd) -> io::Result<FileKey> {
    attributes::look(file).map(|seen| attributes::key(&seen))
}

fn kind_of(file: impl AsFd) -> io::Result<u32> {
    let mode = attributes::look(file)?.stx_mode;
    Ok(FileType::from_raw_mode(mode.into()).as_raw_mode())
}

fn path_in(saved: &FsState, number: u64) -> String {
    let found = saved.inodes.iter().find(|inode| inode.number == number);
    let path = found.and_then(|inode| inode.path.as_ref());
    path.map_or_else(|| format!("File {number}"), |path| shown(path.bytes()))
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
