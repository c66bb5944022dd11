//! The loop of a foreground `run` or `exec`: the user's terminal to the container's and back,
//! signals to the container, until the container's process has ended and its output is shown.
//!
//! ```text
//!   user's stdin ──▶ pending input ──▶ master ──▶ container
//!   user's stdout ◀── pending output ◀── master ◀── container
//! ```
//!
//! The user's descriptors are shared with the user's shell and stay blocking: they are used only
//! when `poll` says that they will not block.
//!
//! Hostile: the bytes of the container. They go to the user's terminal unread, as runc has it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::host::signals::SignalStream;
use crate::host::terminal::{self, RawMode, WindowSize};

/// A pipe that `poll` calls writable takes this much without blocking.
const CHUNK: usize = 4096;
/// How long output may keep coming after the process has ended, held open by others.
const LINGER: Duration = Duration::from_millis(500);

/// What the loop does with signals.
pub trait SignalSink {
    /// A signal for the container.
    fn forward(&mut self, signal: i32);
    /// The user's terminal has another size; the container's has it already.
    fn resized(&mut self, size: WindowSize);
}

/// Runs until `end` is readable, and then until the terminal's output is shown.
///
/// # Errors
/// When `poll` fails, which it does for programming errors only.
pub fn relay(
    end: BorrowedFd<'_>,
    signals: &SignalStream,
    master: Option<OwnedFd>,
    sink: &mut dyn SignalSink,
) -> io::Result<()> {
    let mut console = master.map(Console::new).transpose()?;
    if let Some(console) = &console {
        console.adopt_size(sink);
    }
    let mut ended: Option<Instant> = None;
    loop {
        if let Some(since) = ended {
            let done = console.as_ref().is_none_or(Console::is_done);
            if done || since.elapsed() > LINGER {
                return Ok(());
            }
        }
        let ready = wait(end, signals, console.as_ref(), ended.is_some())?;
        if ready.any(Source::End) && ended.is_none() {
            ended = Some(Instant::now());
        }
        while let Some(signal) = signals.next()? {
            match (signal, &console) {
                (libc::SIGWINCH, Some(console)) => console.adopt_size(sink),
                (libc::SIGWINCH, None) => {}
                (signal, _) => sink.forward(signal),
            }
        }
        if let Some(console) = &mut console {
            console.pump(&ready);
        }
    }
}

/// A descriptor of the loop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    End,
    Master,
    Stdin,
    Stdout,
}

/// What `poll` said of each source.
struct Ready(Vec<(Source, PollFlags)>);

impl Ready {
    /// It can be used, or has failed (which its next use will say).
    fn any(&self, source: Source) -> bool {
        self.0.iter().any(|(ready, flags)| *ready == source && !flags.is_empty())
    }

    fn has(&self, source: Source, flag: PollFlags) -> bool {
        self.0.iter().any(|(ready, flags)| *ready == source && flags.intersects(flag))
    }
}

/// Waits for whatever can be done next; once the process has ended, not for long. A source that
/// nothing is wanted of is left out: it would report its hang-up again and again.
fn wait(
    end: BorrowedFd<'_>,
    signals: &SignalStream,
    console: Option<&Console>,
    ended: bool,
) -> io::Result<Ready> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let mut wanted = vec![(Source::Signals, signals.as_fd(), PollFlags::IN)];
    if !ended {
        wanted.push((Source::End, end, PollFlags::IN));
    }
    if let Some(console) = console {
        wanted.push((Source::Master, console.master.as_fd(), console.master_interest()));
        wanted.push((Source::Stdin, stdin.as_fd(), console.stdin_interest()));
        wanted.push((Source::Stdout, stdout.as_fd(), console.stdout_interest()));
    }
    wanted.retain(|(_, _, flags)| !flags.is_empty());
    let mut polled: Vec<_> = wanted
        .iter()
        .map(|(_, descriptor, flags)| PollFd::from_borrowed_fd(*descriptor, *flags))
        .collect();
    let timeout = ended.then(|| Timespec::try_from(LINGER).unwrap_or_default());
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Ready(
        wanted
            .iter()
            .zip(&polled)
            .map(|((source, _, _), polled)| (*source, polled.revents()))
            .collect(),
    ))
}

/// The container's terminal on one side, the user's on the other.
struct Console {
    master: OwnedFd,
    /// The user's terminal; absent when standard input is something else.
    _raw: Option<RawMode>,
    to_container: Vec<u8>,
    to_user: Vec<u8>,
    stdin_open: bool,
    stdout_open: bool,
    master_open: bool,
}

impl Console {
    fn new(master: OwnedFd) -> io::Result<Self> {
        let stdin = io::stdin();
        let raw = rustix::termios::isatty(&stdin).then(|| RawMode::enter(stdin.as_fd()));
        let flags = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self {
            master,
            _raw: raw.transpose()?,
            to_container: Vec::new(),
            to_user: Vec::new(),
            stdin_open: true,
            stdout_open: true,
            master_open: true,
        })
    }

    /// The container's terminal gets the size of the user's.
    fn adopt_size(&self, sink: &mut dyn SignalSink) {
        if let Some(size) = terminal::window_size(io::stdin().as_fd()) {
            // A terminal whose other side is gone has no size to set.
            let _ = terminal::set_window_size(self.master.as_fd(), size);
            sink.resized(size);
        }
    }

    /// All that the container will ever show is shown, or nobody looks.
    fn is_done(&self) -> bool {
        (!self.master_open && self.to_user.is_empty()) || !self.stdout_open
    }

    fn master_interest(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.master_open && self.to_user.is_empty());
        flags.set(PollFlags::OUT, self.master_open && !self.to_container.is_empty());
        flags
    }

    fn stdin_interest(&self) -> PollFlags {
        let wanted = self.stdin_open && self.master_open && self.to_container.is_empty();
        if wanted { PollFlags::IN } else { PollFlags::empty() }
    }

    fn stdout_interest(&self) -> PollFlags {
        if self.to_user.is_empty() { PollFlags::empty() } else { PollFlags::OUT }
    }

    fn pump(&mut self, ready: &Ready) {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        if ready.has(Source::Master, PollFlags::OUT) {
            send(&self.master, &mut self.to_container);
        }
        if ready.any(Source::Stdout) && !send(&stdout, &mut self.to_user) {
            self.stdout_open = false;
        }
        if ready.any(Source::Stdin) {
            match receive(&stdin, &mut self.to_container) {
                Received::Data | Received::Nothing => {}
                // As runc has it: the terminal stays, a shell in it ends by its own `exit`.
                Received::End => self.stdin_open = false,
            }
        }
        // A hung-up master still holds what was written before.
        let hung_up = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        if self.to_user.is_empty()
            && ready.has(Source::Master, hung_up)
            && matches!(receive(&self.master, &mut self.to_user), Received::End)
        {
            self.master_open = false;
        }
    }
}

enum Received {
    Data,
    Nothing,
    End,
}

/// One read. `EIO` is how a terminal says that its other side is closed.
fn receive(from: impl AsFd, into: &mut Vec<u8>) -> Received {
    let mut chunk = [0; CHUNK];
    match rustix::io::read(from, &mut chunk) {
        Ok(0) => Received::End,
        Ok(length) => {
            into.extend(chunk.iter().take(length));
            Received::Data
        }
        Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
        Err(_) => Received::End,
    }
}

/// One write. False when nobody reads any more: the bytes are dropped then.
fn send(to: impl AsFd, bytes: &mut Vec<u8>) -> bool {
    match rustix::io::write(to, bytes) {
        Ok(length) => {
            bytes.drain(..length);
            true
        }
        Err(Errno::AGAIN | Errno::INTR) => true,
        Err(_) => {
            bytes.clear();
            false
        }
    }
}
