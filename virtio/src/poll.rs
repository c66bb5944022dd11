//! Waiting for descriptors: a plain epoll, shared by the components of one thread.
//!
//! Each component registers its descriptors under an owner of its own; the thread's loop hands
//! each event to the component whose owner it names.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

/// Events taken in one wait. What is left over comes with the next.
const EVENTS_PER_WAIT: usize = 32;

/// Whom an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The component, as the thread's loop numbers them.
    pub owner: u32,
    /// Which of its descriptors.
    pub index: u32,
}

/// What to wait for. Hang-ups and errors are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Until there is something to read.
    pub read: bool,
    /// Until there is room to write.
    pub write: bool,
    /// Tell once for each time it becomes ready, rather than for as long as it is.
    pub edge: bool,
}

impl Interest {
    /// Only hang-ups and errors.
    pub const NONE: Self = Self { read: false, write: false, edge: false };
    /// Reading.
    pub const READ: Self = Self { read: true, write: false, edge: false };
    /// Writing.
    pub const WRITE: Self = Self { read: false, write: true, edge: false };
    /// Reading, told once.
    pub const READ_EDGE: Self = Self { read: true, write: false, edge: true };
    /// Writing, told once.
    pub const WRITE_EDGE: Self = Self { read: false, write: true, edge: true };
    /// Both, told once.
    pub const BOTH_EDGE: Self = Self { read: true, write: true, edge: true };

    fn flags(self) -> epoll::EventFlags {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, self.read);
        flags.set(epoll::EventFlags::OUT, self.write);
        flags.set(epoll::EventFlags::ET, self.edge);
        flags
    }
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// There is something to read, or the end.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The other side is gone altogether, or the descriptor is broken.
    pub hung_up: bool,
}

impl From<epoll::EventFlags> for Readiness {
    fn from(flags: epoll::EventFlags) -> Self {
        Self {
            readable: flags.contains(epoll::EventFlags::IN),
            writable: flags.contains(epoll::EventFlags::OUT),
            hung_up: flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR),
        }
    }
}

/// One thread's epoll instance.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// A poller that waits for nothing yet.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn open() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Begins to wait for a descriptor.
    ///
    /// # Errors
    /// `PermissionDenied` for what is always ready: regular files, folders and some devices.
    pub fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let data = epoll::EventData::new_u64(pack(token));
        Ok(epoll::add(&self.epoll, fd, data, interest.flags())?)
    }

    /// Waits for something else on the same descriptor.
    ///
    /// # Errors
    /// When it is not registered.
    pub fn modify(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let data = epoll::EventData::new_u64(pack(token));
        Ok(epoll::modify(&self.epoll, fd, data, interest.flags())?)
    }

    /// Stops waiting for a descriptor.
    ///
    /// # Errors
    /// When it is not registered.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits until something is ready or the time is over; a signal ends the wait early.
    ///
    /// # Errors
    /// None that a correct caller can cause.
    pub fn wait<'e>(
        &self,
        events: &'e mut Events,
        timeout: Option<Duration>,
    ) -> io::Result<&'e [(Token, Readiness)]> {
        events.ready.clear();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let count = match epoll::wait(&self.epoll, &mut events.buffer[..], timeout.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in events.buffer.iter().take(count) {
            let (flags, data) = (event.flags, event.data);
            events.ready.push((unpack(data.u64()), flags.into()));
        }
        Ok(&events.ready)
    }
}

fn pack(token: Token) -> u64 {
    u64::from(token.owner) << 32 | u64::from(token.index)
}

fn unpack(data: u64) -> Token {
    let [o0, o1, o2, o3, i0, i1, i2, i3] = data.to_be_bytes();
    Token {
        owner: u32::from_be_bytes([o0, o1, o2, o3]),
        index: u32::from_be_bytes([i0, i1, i2, i3]),
    }
}

/// Room for the events of one wait, used again and again.
pub struct Events {
    buffer: [epoll::Event; EVENTS_PER_WAIT],
    ready: Vec<(Token, Readiness)>,
}

impl Events {
    /// Empty room.
    #[must_use]
    pub fn new() -> Self {
        let nothing =
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        Self { buffer: [nothing; EVENTS_PER_WAIT], ready: Vec::with_capacity(EVENTS_PER_WAIT) }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.ready).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    const TOKEN: Token = Token { owner: 0xdead_beef, index: 0x1234_5678 };

    #[test]
    fn a_token_comes_back_with_its_event() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let poller = Poller::open().unwrap();
        poller.add(&theirs, TOKEN, Interest::READ).unwrap();
        ours.write_all(b"x").unwrap();
        let mut events = Events::new();
        let ready = poller.wait(&mut events, Some(Duration::from_secs(5))).unwrap();
        let readable = Readiness { readable: true, ..Readiness::default() };
        assert_eq!(ready, [(TOKEN, readable)]);
    }

    #[test]
    fn a_regular_file_is_refused_as_always_ready() {
        let file = tempfile::tempfile().unwrap();
        let error = Poller::open().unwrap().add(&file, TOKEN, Interest::READ).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
