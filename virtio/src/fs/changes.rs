//! What the host changes below the bind mounts, so that it can be repeated in the guest.
//!
//! ```text
//!  inotify ── not the guest's own ──▶ pending ── one at a time ──▶ agent
//!                                                current ◀── repeated ──┘
//! ```
//!
//! Watched are the folders that the guest knows, and the files that are bind mounts themselves.
//! The guest's own changes reach its programs without this; they are told apart by when they come
//! and what they name: around each request of the guest's, its events are taken and left out.
//!
//! Hostile: what the guest says on the connection (which thread it is, and that it is done); it
//! deceives itself only. Bounded: watches, names remembered, events that wait.

use std::collections::{HashMap, VecDeque};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{Event, ReadFlags, Reader};

use super::watches::Watches;

/// Folders that are watched at once. Each takes about a KiB of the host's kernel, of which a user
/// has a limited number; what is beyond is not heard of.
const MAX_WATCHES: usize = 4096;
/// Names whose files are remembered, so that a file's own watchers hear of its end.
const MAX_NAMES: usize = 16 << 10;
/// Events that wait for the guest. A guest that does not take them loses the rest.
const MAX_PENDING: usize = 4096;
/// Some hundred events.
const BUFFER_BYTES: usize = 16 << 10;
/// Numbers for what is gone already, far from those of inodes.
const FIRST_PHANTOM: u64 = 1 << 62;

/// A folder's number, and a name in it.
pub(super) type Named = (u64, Box<[u8]>);

/// What happened to a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Appeared,
    /// Removed, or moved to where nobody watches.
    Vanished {
        moved: bool,
    },
    Moved(Named),
    Modified,
    Attributes,
    Written,
}

/// Something that happened on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) at: Named,
    pub(super) is_folder: bool,
    pub(super) what: What,
}

impl Happened {
    /// A name appeared.
    pub(super) fn appeared(&self, folder: u64, name: &CStr) -> bool {
        self.what == What::Appeared && is(&self.at, folder, name)
    }

    /// A name vanished.
    pub(super) fn vanished(&self, folder: u64, name: &CStr) -> bool {
        matches!(self.what, What::Vanished { .. }) && is(&self.at, folder, name)
    }

    /// The first name became the second.
    pub(super) fn moved(&self, [from, to]: [(u64, &CStr); 2]) -> bool {
        match &self.what {
            What::Moved(new) => is(&self.at, from.0, from.1) && is(new, to.0, to.1),
            _ => false,
        }
    }

    /// It is repeated by a change of times.
    pub(super) fn is_touch(&self) -> bool {
        matches!(self.what, What::Modified | What::Attributes)
    }
}

/// Whether a name is this one.
pub(super) fn is(named: &Named, folder: u64, name: &CStr) -> bool {
    named.0 == folder && *named.1 == *name.to_bytes()
}

/// What the agent is repeating.
#[derive(Clone, Debug)]
pub(super) struct Current {
    pub(super) happened: Happened,
    /// The number that stands for something that is gone.
    pub(super) phantom: u64,
}

/// A raw event that is still to be understood.
struct Raw {
    watch: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Box<[u8]>,
}

/// A watched folder, or a file that is a bind mount.
#[derive(Debug)]
struct Watched {
    watch: i32,
    /// Where it is itself, for a file.
    file: Option<Named>,
    /// The inodes behind the names that the guest looked up, with their generations.
    names: HashMap<Box<[u8]>, (u64, u64)>,
}

/// What is watched, what happened, and who hears it.
#[derive(Debug)]
pub(super) struct Changes {
    watches: Watches,
    /// One inode on the host may be several to the guest.
    by_watch: HashMap<i32, Vec<u64>>,
    watched: HashMap<u64, Watched>,
    names: usize,
    pending: VecDeque<Happened>,
    lost: bool,
    current: Option<Current>,
    phantoms: u64,
    guest: Option<Guest>,
}

/// The connection to the agent.
#[derive(Debug)]
struct Guest {
    stream: File,
    /// The first bytes that it sends are the number of its thread.
    hello: Vec<u8>,
    thread: Option<u32>,
}

impl Changes {
    /// Watches nothing yet. `guest` is a stream that does not block.
    pub(super) fn new(watches: Watches, guest: OwnedFd) -> Self {
        let guest = Guest { stream: guest.into(), hello: Vec::new(), thread: None };
        Self {
            watches,
            by_watch: HashMap::new(),
            watched: HashMap::new(),
            names: 0,
            pending: VecDeque::new(),
            lost: false,
            current: None,
            phantoms: FIRST_PHANTOM,
            guest: Some(guest),
        }
    }

    /// Becomes readable when something happened.
    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.watches.events.as_fd()
    }

    /// Becomes readable when the agent says something.
    pub(super) fn guest(&self) -> Option<BorrowedFd<'_>> {
        self.guest.as_ref().map(|guest| guest.stream.as_fd())
    }

    /// Watches a folder, or a file in `at`, if there is room.
    pub(super) fn watch(&mut self, number: u64, file: impl AsFd, at: Option<Named>) {
        let full = self.watched.len() >= MAX_WATCHES;
        if full || self.guest.is_none() || self.watched.contains_key(&number) {
            return;
        }
        match self.watches.add(file) {
            Ok(watch) => {
                self.by_watch.entry(watch).or_default().push(number);
                let watched = Watched { watch, file: at, names: HashMap::new() };
                self.watched.insert(number, watched);
            }
            Err(error) => tracing::debug!(%error, "a folder's changes are not heard of"),
        }
    }

    /// The guest has forgotten an inode.
    pub(super) fn unwatch(&mut self, number: u64) {
        let Some(watched) = self.watched.remove(&number) else { return };
        self.names -= watched.names.len();
        if let Some(numbers) = self.by_watch.get_mut(&watched.watch) {
            numbers.retain(|&other| other != number);
            if numbers.is_empty() {
                self.by_watch.remove(&watched.watch);
                self.watches.remove(watched.watch);
            }
        }
    }

    /// The guest has forgotten everything.
    pub(super) fn clear(&mut self) {
        let numbers: Vec<u64> = self.watched.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.unwatch(number));
        self.pending.clear();
    }

    /// The guest knows what a name in a folder is.
    pub(super) fn learn(&mut self, folder: u64, name: &[u8], inode: (u64, u64)) {
        let full = self.names >= MAX_NAMES;
        let Some(watched) = self.watched.get_mut(&folder) else { return };
        if let Some(known) = watched.names.get_mut(name) {
            *known = inode;
        } else if !full {
            watched.names.insert(name.into(), inode);
            self.names += 1;
        }
    }

    /// A name stands for nothing any more.
    pub(super) fn unlearn(&mut self, folder: u64, name: &[u8]) {
        let known = self.watched.get_mut(&folder).and_then(|watched| watched.names.remove(name));
        self.names -= usize::from(known.is_some());
    }

    /// The inode that a name was when the guest looked, with its generation.
    pub(super) fn known(&self, (folder, name): &Named) -> Option<(u64, u64)> {
        self.watched.get(folder)?.names.get(name).copied()
    }

    /// Whether a name is gone and the guest has not heard of it; and whether it was a folder.
    pub(super) fn is_to_vanish(&self, named: &Named) -> Option<bool> {
        let gone = What::Vanished { moved: false };
        let mut pending = self.pending.iter();
        let found = pending.find(|happened| happened.at == *named && happened.what == gone);
        found.map(|happened| happened.is_folder)
    }

    /// Takes the events that there are, but for those that are the guest's own.
    pub(super) fn hear(&mut self, is_own: &dyn Fn(u64, &[u8]) -> bool) {
        let mut moved: Option<Raw> = None;
        for raw in self.take() {
            if let Some(from) = moved.take() {
                if raw.cookie == from.cookie && raw.flags.contains(ReadFlags::MOVED_TO) {
                    self.note_moved(&from, &raw, is_own);
                    continue;
                }
                self.note(&from, is_own);
            }
            if raw.flags.contains(ReadFlags::MOVED_FROM) {
                moved = Some(raw);
            } else {
                self.note(&raw, is_own);
            }
        }
        if let Some(from) = moved {
            self.note(&from, is_own);
        }
    }

    fn take(&self) -> Vec<Raw> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(&*self.watches.events, &mut buffer);
        let mut taken = Vec::new();
        // An error is that there are no more.
        while taken.len() < MAX_PENDING
            && let Ok(event) = reader.next()
        {
            taken.push(raw(&event));
        }
        taken
    }

    fn note(&mut self, raw: &Raw, is_own: &dyn Fn(u64, &[u8]) -> bool) {
        let flags = raw.flags;
        if flags.contains(ReadFlags::IGNORED) {
            return self.watch_ended(raw.watch);
        }
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return self.lose();
        }
        let Some(what) = meaning(flags) else { return };
        for number in self.by_watch.get(&raw.watch).cloned().unwrap_or_default() {
            let Some(at) = self.place(number, &raw.name) else { continue };
            if !is_own(at.0, &at.1) {
                let is_folder = flags.contains(ReadFlags::ISDIR);
                self.push(Happened { at, is_folder, what: what.clone() });
            }
        }
    }

    fn note_moved(&mut self, from: &Raw, to: &Raw, is_own: &dyn Fn(u64, &[u8]) -> bool) {
        let first = |watch| self.by_watch.get(&watch).and_then(|numbers| numbers.first().copied());
        let (Some(old), Some(new)) = (first(from.watch), first(to.watch)) else { return };
        // The guest's own rename has both names.
        if is_own(old, &from.name) && is_own(new, &to.name) {
            return;
        }
        let is_folder = to.flags.contains(ReadFlags::ISDIR);
        let what = What::Moved((new, to.name.clone()));
        self.push(Happened { at: (old, from.name.clone()), is_folder, what });
    }

    /// Where an event of a watch happened: in a folder, or to a file by its own name.
    fn place(&self, number: u64, name: &[u8]) -> Option<Named> {
        let watched = self.watched.get(&number)?;
        match &watched.file {
            Some(at) => Some(at.clone()),
            None if name.is_empty() => None,
            None => Some((number, name.into())),
        }
    }

    /// Its folder is gone.
    fn watch_ended(&mut self, watch: i32) {
        for number in self.by_watch.remove(&watch).unwrap_or_default() {
            if let Some(watched) = self.watched.remove(&number) {
                self.names -= watched.names.len();
            }
        }
    }

    fn push(&mut self, happened: Happened) {
        if self.guest.is_none() || self.pending.back() == Some(&happened) {
            return;
        }
        if self.pending.len() >= MAX_PENDING {
            return self.lose();
        }
        self.pending.push_back(happened);
    }

    fn lose(&mut self) {
        if !self.lost {
            tracing::warn!("the host changes more files than the guest can hear of");
        }
        self.lost = true;
    }

    /// The next event for an agent that has nothing to repeat.
    pub(super) fn next(&mut self) -> Option<Current> {
        if self.current.is_some() || self.guest.as_ref()?.thread.is_none() {
            return None;
        }
        let happened = self.pending.pop_front()?;
        self.phantoms += 1;
        Some(Current { happened, phantom: self.phantoms })
    }

    /// Gives the agent something to repeat.
    pub(super) fn send(&mut self, current: Current, frame: &[u8]) {
        let Some(guest) = &mut self.guest else { return };
        // It is empty but for this frame, which it has room for.
        if guest.stream.write(frame).is_ok_and(|written| written == frame.len()) {
            self.current = Some(current);
        } else {
            self.hang_up();
        }
    }

    /// What the agent is repeating, if it is the agent that asks.
    pub(super) fn repeated_by(&self, thread: i32) -> Option<&Current> {
        self.current.as_ref().filter(|_| self.is_agent(thread))
    }

    /// Whether a thread of the guest is the one that repeats.
    pub(super) fn is_agent(&self, thread: i32) -> bool {
        let agent = self.guest.as_ref().and_then(|guest| guest.thread);
        agent.is_some_and(|agent| u32::try_from(thread) == Ok(agent))
    }

    /// Reads what the agent says.
    pub(super) fn listen(&mut self) {
        let mut bytes = [0; 16];
        let Some(guest) = &mut self.guest else { return };
        match guest.stream.read(&mut bytes) {
            Ok(0) => self.hang_up(),
            Ok(count) => guest.take(bytes.get(..count).unwrap_or_default(), &mut self.current),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.hang_up(),
        }
    }

    fn hang_up(&mut self) {
        tracing::debug!("the guest hears of no changes any more");
        self.guest = None;
        self.current = None;
        self.clear();
    }
}

impl Guest {
    fn take(&mut self, bytes: &[u8], current: &mut Option<Current>) {
        if self.thread.is_some() {
            // Each byte is an answer, and there is one question.
            *current = None;
            return;
        }
        self.hello.extend_from_slice(bytes);
        self.thread = self.hello.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    }
}

fn raw(event: &Event<'_>) -> Raw {
    let name = event.file_name().map(CStr::to_bytes).unwrap_or_default();
    Raw { watch: event.wd(), flags: event.events(), cookie: event.cookie(), name: name.into() }
}

fn meaning(flags: ReadFlags) -> Option<What> {
    let meanings = [
        (ReadFlags::CREATE, What::Appeared),
        (ReadFlags::MOVED_TO, What::Appeared),
        (ReadFlags::DELETE, What::Vanished { moved: false }),
        (ReadFlags::MOVED_FROM, What::Vanished { moved: true }),
        (ReadFlags::MODIFY, What::Modified),
        (ReadFlags::ATTRIB, What::Attributes),
        (ReadFlags::CLOSE_WRITE, What::Written),
    ];
    let mut meanings = meanings.into_iter();
    meanings.find(|(flag, _)| flags.contains(*flag)).map(|(_, what)| what)
}
