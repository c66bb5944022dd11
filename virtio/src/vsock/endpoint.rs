//! The host's side of a connection: one descriptor, read and written without ever waiting.
//!
//! The descriptors are foreign: pipes, sockets, files, terminals that somebody else holds too.
//! Where `O_NONBLOCK` is not set on one (and it may not be ours to set), each read and write is
//! preceded by a poll and kept so small that it does not block. Where epoll refuses one (regular
//! files, `/dev/null`) it is always ready.
//!
//! Edge-triggered: readiness is remembered here until an attempt says otherwise, so that a
//! descriptor which the guest is not ready for costs no wake-ups.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use vm_memory::VolatileMemoryError;

use super::Endpoint;
use crate::memory::{ReadVolatile, WriteVolatile};
use crate::poll::{Interest, Poller, Readiness, Token};
use crate::slices::Slices;

/// A blocking pipe that polls as writable takes `PIPE_BUF` bytes without blocking; sockets and
/// terminals take as much.
const BLOCKING_WRITE_BYTES: usize = 4096;

/// What a descriptor is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stream,
    Tcp,
    Source,
    Sink,
    Terminal,
}

impl Kind {
    fn reads(self) -> bool {
        self != Self::Sink
    }
}

/// How an attempt to move bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// So many bytes, at least one.
    Bytes(usize),
    /// None now; the descriptor's readiness will be reported.
    NotNow,
    /// None ever: the end of the input, or nobody there to take the output.
    Never,
}

/// A host descriptor in use.
#[derive(Debug)]
pub(super) struct HostEnd {
    kind: Kind,
    descriptor: Option<OwnedFd>,
    token: Token,
    blocking: bool,
    always_ready: bool,
    watched: Option<Interest>,
    readable: bool,
    hung_up: bool,
}

impl HostEnd {
    /// Takes a descriptor over. It is not watched yet.
    pub(super) fn new(endpoint: Endpoint, token: Token) -> Self {
        let (kind, descriptor) = match endpoint {
            Endpoint::Stream(descriptor) => (Kind::Stream, descriptor),
            Endpoint::Tcp(descriptor) => (Kind::Tcp, descriptor),
            Endpoint::Source(descriptor) => (Kind::Source, descriptor),
            Endpoint::Sink(descriptor) => (Kind::Sink, descriptor),
            Endpoint::Terminal(descriptor) => (Kind::Terminal, descriptor),
        };
        let flags = rustix::fs::fcntl_getfl(&descriptor);
        let nonblocking = flags.is_ok_and(|flags| flags.contains(rustix::fs::OFlags::NONBLOCK));
        Self {
            kind,
            descriptor: Some(descriptor),
            token,
            blocking: !nonblocking,
            always_ready: false,
            watched: None,
            readable: false,
            hung_up: false,
        }
    }

    /// What it is used for.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Begins to watch for input, where there can be any.
    pub(super) fn start(&mut self, poller: &Poller) {
        if self.kind.reads() {
            self.watch(poller, Some(Interest::READ_EDGE));
        }
    }

    /// Remembers what the poller reported.
    pub(super) fn note(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable || readiness.hung_up;
        self.hung_up |= readiness.hung_up;
    }

    /// Whether an attempt to read may give something.
    pub(super) fn readable(&self) -> bool {
        self.kind.reads() && self.readable && self.descriptor.is_some()
    }

    /// The other side is gone altogether: it neither sends nor takes any more.
    pub(super) fn hung_up(&self) -> bool {
        self.hung_up
    }

    /// Reads into guest memory.
    pub(super) fn read(&mut self, room: &Slices<'_>) -> Moved {
        let Some(descriptor) = &self.descriptor else { return Moved::Never };
        let descriptor = descriptor.as_fd();
        if self.blocking && !self.always_ready && !ready(descriptor, PollFlags::IN) {
            self.readable = false;
            return Moved::NotNow;
        }
        let Some(slice) = room.front() else { return Moved::NotNow };
        let mut target = *slice;
        match retry(|| (&descriptor).read_volatile(&mut target)) {
            Ok(0) => Moved::Never,
            Ok(count) => Moved::Bytes(count),
            Err(Errno::AGAIN) => {
                self.readable = false;
                Moved::NotNow
            }
            // A terminal whose other side hung up; a socket that was reset.
            Err(_) => Moved::Never,
        }
    }

    /// Writes from guest memory; watches for room when there is none.
    pub(super) fn write(&mut self, data: &Slices<'_>, poller: &Poller) -> Moved {
        let blocking = self.blocking;
        self.attempt(poller, |descriptor| {
            let Some(slice) = data.front() else { return Ok(0) };
            let limit = if blocking { BLOCKING_WRITE_BYTES } else { usize::MAX };
            let source = slice.subslice(0, slice.len().min(limit));
            let source = source.map_err(|_| Errno::INVAL)?;
            retry(|| (&descriptor).write_volatile(&source))
        })
    }

    /// Writes from our own memory; watches for room when there is none.
    pub(super) fn write_bytes(&mut self, data: &[u8], poller: &Poller) -> Moved {
        let limit = if self.blocking { BLOCKING_WRITE_BYTES } else { usize::MAX };
        let data = data.get(..data.len().min(limit)).unwrap_or_default();
        self.attempt(poller, |descriptor| {
            rustix::io::retry_on_intr(|| rustix::io::write(descriptor, data))
        })
    }

    /// The guest sends no more: passes the end on to the other side of the descriptor.
    pub(super) fn finish_output(&mut self, poller: &Poller) {
        if self.kind == Kind::Sink {
            return self.release(poller);
        }
        self.watch_output(poller, false);
        if let (Kind::Stream | Kind::Tcp, Some(descriptor)) = (self.kind, &self.descriptor) {
            // Not connected any more: nobody is there to hear of the end.
            let _ = rustix::net::shutdown(descriptor, rustix::net::Shutdown::Write);
            if self.kind == Kind::Tcp {
                // What the kernel has not sent yet is sent when it is closed. It does not fail for a socket.
                let _ = set_socket_linger(descriptor, None);
            }
        }
    }

    /// The guest takes no more: lets the other side of the descriptor know.
    pub(super) fn finish_input(&mut self, poller: &Poller) {
        match (self.kind, &self.descriptor) {
            (Kind::Source, _) => self.release(poller),
            (Kind::Stream | Kind::Tcp, Some(descriptor)) => {
                // Not connected any more: nobody is there to hear of the end.
                let _ = rustix::net::shutdown(descriptor, rustix::net::Shutdown::Read);
            }
            _ => {}
        }
        self.readable = false;
    }

    /// Lets go of the descriptor.
    pub(super) fn release(&mut self, poller: &Poller) {
        self.watch(poller, None);
        self.descriptor = None;
    }

    fn attempt(
        &mut self,
        poller: &Poller,
        write: impl FnOnce(BorrowedFd<'_>) -> Result<usize, Errno>,
    ) -> Moved {
        let Some(descriptor) = &self.descriptor else { return Moved::Never };
        let descriptor = descriptor.as_fd();
        let full = self.blocking && !self.always_ready && !ready(descriptor, PollFlags::OUT);
        match if full { Err(Errno::AGAIN) } else { write(descriptor) } {
            Ok(0) | Err(Errno::AGAIN) => {
                self.watch_output(poller, true);
                Moved::NotNow
            }
            Ok(count) => Moved::Bytes(count),
            Err(_) => Moved::Never,
        }
    }

    /// Watches for room to write, or no longer.
    pub(super) fn watch_output(&mut self, poller: &Poller, wanted: bool) {
        let interest = match (self.kind.reads(), wanted) {
            (true, true) => Some(Interest::BOTH_EDGE),
            (true, false) => self.watched.map(|_| Interest::READ_EDGE),
            (false, true) => Some(Interest::WRITE_EDGE),
            (false, false) => None,
        };
        self.watch(poller, interest);
    }

    fn watch(&mut self, poller: &Poller, wanted: Option<Interest>) {
        let Some(descriptor) = &self.descriptor else { return };
        if self.always_ready || self.watched == wanted {
            return;
        }
        let done = match (self.watched, wanted) {
            (None, Some(interest)) => poller.add(descriptor, self.token, interest),
            (Some(_), Some(interest)) => poller.modify(descriptor, self.token, interest),
            (_, None) => poller.remove(descriptor),
        };
        match done {
            Ok(()) => self.watched = wanted,
            Err(error) => self.unwatchable(&error),
        }
    }

    /// What epoll cannot watch is always ready. Any other failure is the system's lack of memory:
    /// the next attempt tries again.
    fn unwatchable(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::PermissionDenied {
            self.always_ready = true;
            self.readable = true;
        } else {
            tracing::warn!(%error, "a descriptor cannot be watched");
        }
    }
}

fn ready(descriptor: BorrowedFd<'_>, wanted: PollFlags) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(descriptor, wanted)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok_and(|count| count > 0)
}

fn retry(mut attempt: impl FnMut() -> Result<usize, VolatileMemoryError>) -> Result<usize, Errno> {
    loop {
        match attempt() {
            Ok(count) => return Ok(count),
            Err(VolatileMemoryError::IOError(error)) => match Errno::from_io_error(&error) {
                Some(Errno::INTR) => {}
                other => return Err(other.unwrap_or(Errno::IO)),
            },
            Err(_) => return Err(Errno::FAULT),
        }
    }
}
