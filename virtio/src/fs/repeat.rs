//! The agent repeats a change of the host's, and the server plays along: what is on the host
//! already is done "again" without effect, so that the guest's kernel forgets what it has cached
//! and tells the guest's programs, as if the change had been made in the guest.
//!
//! | change | the agent | the look-up before it says |
//! |---|---|---|
//! | appeared | makes it | there is nothing |
//! | vanished | removes it | it is there: the inode that the guest knew, or a phantom |
//! | moved | renames it | it has its old name |
//! | modified, attributes | sets its times | the truth |
//! | written | opens it for writing, closes it | the truth; it is opened for reading |
//!
//! Other changes of names and attributes that the agent's thread asks for are refused. A guest that claims to be the agent
//! deceives its own kernel, and changes nothing here.

use std::ffi::{CStr, CString};
use std::io;
use std::time::Duration;

use cofferdam_protocol::bounds::MAX_CHANGE_BYTES;
use cofferdam_protocol::change::{Change, ChangeEvent, Place};
use cofferdam_protocol::frame;
use fuse_backend_rs::api::filesystem::{Context, Entry, ROOT_ID};
use rustix::fs::{AtFlags, FileType, StatxFlags, readlinkat, statx};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::attributes::look;
use super::changes::{Changes, Current, Happened, Named, What, is};
use super::inodes::Inodes;
use super::sys;
use super::tree::{State, Tree};

/// What the kernel adds to the path of a folder that is gone.
const DELETED: &[u8] = b" (deleted)";

/// What a request of the guest's changes, so that it is not told of it as the host's doing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Own<'a> {
    /// What a name in a folder is.
    Name(u64, &'a CStr),
    /// What two names are.
    Names([(u64, &'a CStr); 2]),
    /// A file's content or attributes.
    File(u64),
}

impl Own<'_> {
    fn is(&self, inodes: &Inodes, folder: u64, name: &[u8]) -> bool {
        match self {
            Self::Name(at, own) => *at == folder && own.to_bytes() == name,
            Self::Names(both) => {
                both.iter().any(|(at, own)| *at == folder && own.to_bytes() == name)
            }
            Self::File(number) => is_file(inodes, *number, folder, name).unwrap_or(false),
        }
    }
}

/// Whether a name stands for a file.
fn is_file(inodes: &Inodes, number: u64, folder: u64, name: &[u8]) -> io::Result<bool> {
    let name = CString::new(name)?;
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let seen = statx(&inodes.get(folder)?.file, name, flags, StatxFlags::BASIC_STATS)?;
    let file = look(&inodes.get(number)?.file)?;
    let id = |seen: &rustix::fs::Statx| (seen.stx_ino, seen.stx_dev_major, seen.stx_dev_minor);
    Ok(id(&seen) == id(&file))
}

impl State {
    /// Takes what happened on the host, but for the guest's own doing.
    pub(super) fn hear(&mut self, own: Option<Own<'_>>) {
        let Self { inodes, changes, .. } = self;
        if let Some(changes) = changes {
            changes.hear(&|folder, name| own.is_some_and(|own| own.is(inodes, folder, name)));
        }
    }

    /// Does what the guest asks for to something below a bind mount or elsewhere.
    pub(super) fn own<T>(
        &mut self,
        about: u64,
        own: Own<'_>,
        act: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        let is_shared = self.inodes.get(about).is_ok_and(|inode| inode.shared || about == ROOT_ID);
        if self.changes.is_none() || !is_shared {
            return act(self);
        }
        self.hear(None);
        let done = act(self);
        self.hear(Some(own));
        done
    }

    /// The guest forgets so many of its look-ups.
    pub(super) fn forget(&mut self, number: u64, count: u64) {
        if self.inodes.forget(number, count)
            && let Some(changes) = &mut self.changes
        {
            changes.unwatch(number);
        }
    }

    /// The guest has looked a name up: what it is, is watched and remembered.
    pub(super) fn learn(&mut self, folder: u64, name: &CStr, number: u64) {
        let Self { inodes, changes, .. } = self;
        let (Some(changes), Ok(inode)) = (changes, inodes.get(number)) else { return };
        if !inode.shared {
            return;
        }
        // A file is mounted by itself: nobody watches the folder that it is in on the host.
        let mounted = inodes.get(folder).is_ok_and(|folder| folder.key.mount != inode.key.mount);
        changes.learn(folder, name.to_bytes(), (number, inodes.generation(number)));
        let at = (folder, Box::from(name.to_bytes()));
        match inode.kind {
            FileType::Directory => changes.watch(number, &inode.file, None),
            FileType::RegularFile if folder == ROOT_ID || mounted => {
                changes.watch(number, &inode.file, Some(at));
            }
            _ => {}
        }
    }

    /// A name is nothing any more, by the guest's doing.
    pub(super) fn unlearn(&mut self, folder: u64, name: &CStr) {
        if let Some(changes) = &mut self.changes {
            changes.unlearn(folder, name.to_bytes());
        }
    }

    /// What the agent repeats, if it is the agent that asks.
    pub(super) fn repeated(&self, caller: &Context) -> Option<Current> {
        self.changes.as_ref()?.repeated_by(caller.pid).cloned()
    }

    fn is_agent(&self, caller: &Context) -> bool {
        self.changes.as_ref().is_some_and(|changes| changes.is_agent(caller.pid))
    }

    /// Says what the agent's request came to, if it is the agent's: refused, when it is not what
    /// it is to repeat.
    pub(super) fn answer_agent(
        &self,
        caller: &Context,
        is_wanted: impl FnOnce(&Happened) -> bool,
    ) -> Option<io::Result<Current>> {
        if !self.is_agent(caller) {
            return None;
        }
        let current = self.repeated(caller).filter(|current| is_wanted(&current.happened));
        Some(current.ok_or_else(|| Errno::PERM.into()))
    }
}

impl Tree {
    /// What a name that the agent looks up is to be, for as long as it repeats a change of it.
    pub(super) fn look_up_again(
        &self,
        state: &mut State,
        caller: &Context,
        folder: u64,
        name: &CStr,
    ) -> Option<io::Result<Entry>> {
        let current = state.repeated(caller)?;
        let Happened { at, what, is_folder } = &current.happened;
        match what {
            What::Appeared if is(at, folder, name) => Some(Ok(self.unknown())),
            What::Vanished { moved } if is(at, folder, name) => {
                let known = if *moved { None } else { self.gone(state, at, *is_folder) };
                Some(Ok(known.unwrap_or_else(|| self.phantom(&current, kind_of(*is_folder)))))
            }
            What::Moved(_) if is(at, folder, name) => {
                let real = self.moved(state, &current);
                Some(Ok(real.unwrap_or_else(|| self.phantom(&current, kind_of(*is_folder)))))
            }
            What::Moved(to) if is(to, folder, name) => {
                // The guest may have seen already what it covers the old with.
                let is_new = state.changes.as_ref().and_then(|changes| changes.known(to));
                let is_new = is_new.is_some_and(|(number, _)| {
                    is_file(&state.inodes, number, to.0, &to.1).unwrap_or(false)
                });
                let covered = if is_new { None } else { self.gone(state, to, *is_folder) };
                Some(Ok(covered.unwrap_or_else(|| self.unknown())))
            }
            _ => self.still(state, folder, name),
        }
    }

    /// What is gone on the host, but is still to be taken away in the guest: for the agent it is
    /// there, so that it comes to what was in it.
    fn still(&self, state: &mut State, folder: u64, name: &CStr) -> Option<io::Result<Entry>> {
        let named = (folder, Box::from(name.to_bytes()));
        let is_folder = state.changes.as_ref()?.is_to_vanish(&named)?;
        self.gone(state, &named, is_folder).map(Ok)
    }

    /// What has appeared by a name, when the agent makes it.
    pub(super) fn make_again(
        &self,
        state: &mut State,
        current: &Current,
        name: &CStr,
        mode: u32,
    ) -> io::Result<Entry> {
        let kind = FileType::from_raw_mode(mode);
        let real = self.look_up(state, current.happened.at.0, name);
        match real {
            Ok(entry) if FileType::from_raw_mode(entry.attr.st_mode) == kind => Ok(entry),
            Ok(entry) => {
                state.forget(entry.inode, 1);
                Ok(self.phantom(current, kind))
            }
            // Gone again.
            Err(_) => Ok(self.phantom(current, kind)),
        }
    }

    /// Takes what happened, and sends the agent what there is for it to repeat.
    pub(super) fn tell(&self) {
        self.state().hear(None);
        self.tell_heard();
    }

    /// Sends the agent what there is for it to repeat of what was heard already.
    pub(super) fn tell_heard(&self) {
        let mut state = self.state();
        while let Some(current) = state.changes.as_mut().and_then(Changes::next) {
            // A folder that is gone or unknown by now: there is nobody to tell.
            let Ok(change) = self.describe(&state, &current.happened) else { continue };
            let Ok(bytes) = frame::encode(&change, MAX_CHANGE_BYTES) else { continue };
            if let Some(changes) = &mut state.changes {
                changes.send(current, &bytes);
            }
        }
    }

    /// Hears what the agent says, and goes on.
    pub(super) fn listen(&self) {
        if let Some(changes) = &mut self.state().changes {
            changes.listen();
        }
        self.tell();
    }

    fn describe(&self, state: &State, happened: &Happened) -> io::Result<Change> {
        let (folder, name) = &happened.at;
        let name = name.to_vec();
        let event = match &happened.what {
            What::Appeared => {
                let mode = self.mode_of(state, &happened.at);
                let mode = mode.unwrap_or(kind_of(happened.is_folder).as_raw_mode());
                ChangeEvent::Appeared { name, mode }
            }
            What::Vanished { .. } => ChangeEvent::Vanished { name, is_folder: happened.is_folder },
            What::Moved((to, new)) => {
                let to_folder = self.place(state, *to)?;
                ChangeEvent::Moved { from: name, to_folder, to: new.to_vec() }
            }
            What::Modified => ChangeEvent::Modified { name },
            What::Attributes => ChangeEvent::Attributes { name },
            What::Written => ChangeEvent::Written { name },
        };
        Ok(Change { folder: self.place(state, *folder)?, event })
    }

    fn mode_of(&self, state: &State, (folder, name): &Named) -> Option<u32> {
        let name = CString::new(&**name).ok()?;
        let folder = &state.inodes.get(*folder).ok()?.file;
        let seen = statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE).ok()?;
        Some(u32::from(seen.stx_mode) & libc::S_IFMT)
    }

    /// Where a folder is, as the guest has it.
    fn place(&self, state: &State, number: u64) -> io::Result<Place> {
        let folder = &state.inodes.get(number)?.file;
        let seen = look(folder)?;
        let root = self.seen_path(&state.inodes.get(ROOT_ID)?.file)?;
        let mut path = self.seen_path(folder)?;
        if seen.stx_nlink == 0 && path.ends_with(DELETED) {
            path.truncate(path.len() - DELETED.len());
        }
        let below = path.strip_prefix(root.strip_suffix(b"/").unwrap_or(&root));
        let below = below.filter(|path| path.is_empty() || path.starts_with(b"/"));
        let path = below.ok_or(Errno::NOENT)?.iter().skip(1).copied().collect();
        Ok(Place { path, inode: seen.stx_ino })
    }

    fn seen_path(&self, file: &std::os::fd::OwnedFd) -> io::Result<Vec<u8>> {
        let name = DecInt::from_fd(file);
        Ok(readlinkat(&self.descriptors, name.as_c_str(), Vec::new())?.into_bytes())
    }

    /// The inode that the guest knew by a name that is gone. The guest takes one from its links.
    fn gone(&self, state: &mut State, named: &Named, is_folder: bool) -> Option<Entry> {
        let (number, generation) = state.changes.as_ref()?.known(named)?;
        let inode = state.inodes.get(number).ok()?;
        let is_same = (inode.kind == FileType::Directory) == is_folder;
        if !is_same || state.inodes.generation(number) != generation {
            return None;
        }
        let seen = look(&inode.file).ok()?;
        let parent_mount = inode.key.mount;
        state.inodes.count(number);
        let mut entry = self.entry(state, number, &seen, parent_mount);
        entry.attr.st_nlink = entry.attr.st_nlink.saturating_add(1);
        Some(entry)
    }

    /// What has moved, by its new name.
    fn moved(&self, state: &mut State, current: &Current) -> Option<Entry> {
        let What::Moved((folder, name)) = &current.happened.what else { return None };
        let name = CString::new(&**name).ok()?;
        self.find(state, *folder, &name).ok()
    }

    /// Nothing, and not to be remembered.
    fn unknown(&self) -> Entry {
        Entry { entry_timeout: Duration::ZERO, ..self.nothing() }
    }

    /// Something that is gone before the guest could see it.
    fn phantom(&self, current: &Current, kind: FileType) -> Entry {
        let mut attr = sys::blank_stat();
        attr.st_ino = current.phantom;
        attr.st_nlink = 1;
        attr.st_mode = kind.as_raw_mode() | 0o600;
        Entry { inode: current.phantom, attr, ..self.unknown() }
    }
}

fn kind_of(is_folder: bool) -> FileType {
    if is_folder { FileType::Directory } else { FileType::RegularFile }
}
