//! The tree that the guest sees: the file system of the server's root folder, request by request.
//!
//! ```text
//!  number ─▶ Inode (O_PATH descriptor) ─▶ openat(descriptor, one name, O_NOFOLLOW)
//!                                     └─▶ /proc/self/fd/N, to open, chmod, link what it names
//! ```
//!
//! The boundary is not here: it is the mount namespace, in which nothing else exists. Within it
//! this never follows a symbolic link, takes a path of more than one component, or `..`.
//!
//! Hostile: every request, and every name that the guest made in the tree, at any moment; other
//! guests and the host may change the tree at the same time. Bounded: descriptors in use.
//!
//! What this is not: it does not decide what a user of the guest may do. The guest's kernel does
//! (`default_permissions`, which virtio-fs always sets).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cofferdam_protocol::vm_config::is_root_share;
use fuse_backend_rs::api::filesystem::{Entry, OpenOptions, ROOT_ID};
use rustix::fs::{FileType, Mode, OFlags, Statx, fcntl_setfl, openat};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::FsConfig;
use super::attributes::{self, version};
use super::caller::Identity;
use super::changes::Changes;
use super::inodes::{Inode, Inodes};
use super::sys;
use super::table::Table;

/// `fuse_attr.flags`: the folder is the root of another file system.
const ATTR_SUBMOUNT: u32 = 1;

/// What of a guest's `open` flags reaches the host. `O_DIRECT` does not: it constrains how the
/// guest's memory is aligned, and its purpose, past the guest's page cache, is served by the guest.
const OPEN_FLAGS: OFlags = OFlags::RDWR
    .union(OFlags::WRONLY)
    .union(OFlags::APPEND)
    .union(OFlags::TRUNC)
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC)
    .union(OFlags::NOATIME)
    .union(OFlags::DIRECTORY);

/// An open file of the guest.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) file: File,
    pub(super) inode: u64,
    /// `O_APPEND`, which a guest can change while the file is open.
    pub(super) append: bool,
}

impl Handle {
    /// Appends from now on, or does not.
    pub(super) fn set_append(&mut self, append: bool) -> io::Result<()> {
        if append != self.append {
            let flags = if append { OFlags::APPEND } else { OFlags::empty() };
            fcntl_setfl(&self.file, flags)?;
            self.append = append;
        }
        Ok(())
    }
}

/// What changes with the requests.
#[derive(Debug)]
pub(super) struct State {
    pub(super) inodes: Inodes,
    pub(super) handles: Table<Handle>,
    /// What the host changes, if anything is to be heard of it.
    pub(super) changes: Option<Changes>,
    /// Room for folder entries, used again and again.
    pub(super) entries: Vec<std::mem::MaybeUninit<u8>>,
}

/// The file system.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) config: FsConfig,
    pub(super) identity: Identity,
    /// `/proc/self/fd`.
    pub(super) descriptors: OwnedFd,
    pub(super) max_descriptors: usize,
    /// One thread serves; the lock is what makes that known to the compiler.
    state: Mutex<State>,
}

impl Tree {
    /// Serves what is at `root`, an `O_PATH` descriptor.
    pub(super) fn new(
        config: FsConfig,
        descriptors: OwnedFd,
        root: OwnedFd,
        max_descriptors: usize,
        changes: Option<Changes>,
    ) -> io::Result<Self> {
        let inodes = Inodes::rooted(root)?;
        let state = State { inodes, handles: Table::default(), changes, entries: Vec::new() };
        let identity = Identity::current()?;
        let state = Mutex::new(state);
        Ok(Self { config, identity, descriptors, max_descriptors, state })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A panic would have ended the only thread that takes the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets all that the guest knew, but the root.
    pub(super) fn forget_all(&self) -> io::Result<()> {
        let mut state = self.state();
        let root = state.inodes.get(ROOT_ID)?;
        let root = root.file.try_clone()?;
        state.inodes = Inodes::rooted(root)?;
        state.handles = Table::default();
        if let Some(changes) = &mut state.changes {
            changes.clear();
        }
        Ok(())
    }

    /// Looks one name up in a folder.
    pub(super) fn look_up(&self, state: &mut State, parent: u64, name: &CStr) -> io::Result<Entry> {
        let found = self.find(state, parent, name)?;
        state.learn(parent, name, found.inode);
        Ok(found)
    }

    /// The same, without remembering it as what the guest knows by that name.
    pub(super) fn find(&self, state: &mut State, parent: u64, name: &CStr) -> io::Result<Entry> {
        let folder = state.inodes.get(parent)?;
        let parent_mount = folder.key.mount;
        // In the root is one entry for each share.
        let shared =
            if parent == ROOT_ID { !is_root_share(name.to_bytes()) } else { folder.shared };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&folder.file, name, flags, Mode::empty())?;
        let seen = attributes::look(&file)?;
        // What the guest knows already can be looked at again whenever it wants.
        if !state.inodes.knows(&seen) {
            self.check_room(state)?;
        }
        let number = state.inodes.remember(file, &seen, shared);
        Ok(self.entry(state, number, &seen, parent_mount))
    }

    /// What the guest is told of a file that it now knows.
    pub(super) fn entry(
        &self,
        state: &State,
        number: u64,
        seen: &Statx,
        parent_mount: u64,
    ) -> Entry {
        let folder = FileType::from_raw_mode(seen.stx_mode.into()) == FileType::Directory;
        // Tells the guest's kernel to give it a device number of its own, so that equal inode
        // numbers of two file systems on the host are not one file to the guest.
        let submount = folder && seen.stx_mnt_id != parent_mount;
        Entry {
            inode: number,
            generation: state.inodes.generation(number),
            attr: attributes::stat(seen),
            attr_flags: if submount { ATTR_SUBMOUNT } else { 0 },
            attr_timeout: self.config.attribute_timeout,
            entry_timeout: self.config.entry_timeout,
        }
    }

    /// Says that there is nothing by a name, in a way that the guest may remember.
    pub(super) fn nothing(&self) -> Entry {
        Entry {
            inode: 0,
            generation: 0,
            attr: sys::blank_stat(),
            attr_flags: 0,
            attr_timeout: self.config.attribute_timeout,
            entry_timeout: self.config.entry_timeout,
        }
    }

    /// Opens a file that the guest knows.
    pub(super) fn reopen(&self, inode: &Inode, flags: OFlags) -> io::Result<OwnedFd> {
        // The guest's kernel serves pipes, sockets and devices itself. Opening one here could
        // block, or reach a device of the host.
        if !matches!(inode.kind, FileType::RegularFile | FileType::Directory) {
            return Err(Errno::PERM.into());
        }
        let name = DecInt::from_fd(&inode.file);
        Ok(openat(&self.descriptors, name, flags | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Opens a file for the guest, and says whether what the guest has cached of it still holds.
    pub(super) fn open_handle(
        &self,
        state: &mut State,
        number: u64,
        flags: u32,
        kill_privileges: bool,
    ) -> io::Result<(u64, OpenOptions)> {
        self.check_room(state)?;
        let wanted = host_flags(flags);
        let file = self.changing(state, number, kill_privileges, |state| {
            self.reopen(state.inodes.get(number)?, wanted)
        })?;
        let options = self.note_opened(state, number, &file)?;
        Ok((self.keep(state, number, file, flags), options))
    }

    /// Remembers what a file is like, and compares with the time before.
    fn note_opened(
        &self,
        state: &mut State,
        number: u64,
        file: &OwnedFd,
    ) -> io::Result<OpenOptions> {
        let inode = state.inodes.get_mut(number)?;
        let now = Some(version(&attributes::look(file)?));
        let unchanged = inode.opened == now;
        inode.opened = now;
        Ok(if unchanged { OpenOptions::KEEP_CACHE } else { OpenOptions::empty() })
    }

    /// Gives an open file its number.
    pub(super) fn keep(&self, state: &mut State, inode: u64, file: OwnedFd, flags: u32) -> u64 {
        let append = host_flags(flags).contains(OFlags::APPEND);
        state.handles.insert(Handle { file: File::from(file), inode, append })
    }

    /// The guest forgets what it does not need when it needs memory; what it holds on to beyond
    /// this would leave the monitor without descriptors.
    pub(super) fn check_room(&self, state: &State) -> io::Result<()> {
        if state.used() >= self.max_descriptors {
            return Err(Errno::NFILE.into());
        }
        Ok(())
    }
}

impl State {
    /// Descriptors that are open for the guest.
    pub(super) fn used(&self) -> usize {
        self.inodes.len() + self.handles.len()
    }

    /// An open file, if its number and its inode's belong together.
    pub(super) fn handle(&mut self, handle: u64, inode: u64) -> io::Result<&mut Handle> {
        let found = self.handles.get_mut(handle).filter(|found| found.inode == inode);
        found.ok_or_else(|| Errno::BADF.into())
    }
}

/// A name that the guest gives must be one component, and neither `.` nor `..`.
pub(super) fn component(name: &CStr) -> io::Result<&CStr> {
    let bytes = name.to_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Errno::INVAL.into());
    }
    Ok(name)
}

/// What of a guest's `open` flags reaches the host.
pub(super) fn host_flags(flags: u32) -> OFlags {
    OFlags::from_bits_retain(flags) & OPEN_FLAGS
}

/// A guest's mode without the type.
pub(super) fn permissions(mode: u32, umask: u32) -> Mode {
    Mode::from_raw_mode(mode & !umask & 0o7777)
}

/// Waits until a file's content is on its device.
pub(super) fn sync(file: impl AsFd, data_only: bool) -> io::Result<()> {
    Ok(if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) }?)
}
