//! Signals to this process: while a container is made they are remembered, so that a creation is
//! undone and not cut; once it runs they are passed on to it.
//!
//! No signal is blocked before the last child is started: a mask would be inherited by the
//! container's program. A handler is not: `exec` resets it. That is also why `SIGPIPE`, which
//! Rust's start-up ignores (and an ignored signal *is* inherited), gets a handler here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

const INTERRUPTING: [Signal; 4] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Not passed on: they are about this process, or (`SIGWINCH`) have another meaning here.
const OWN: [Signal; 10] = [
    Signal::SIGCHLD,
    Signal::SIGURG,
    Signal::SIGPIPE,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGABRT,
    Signal::SIGTRAP,
    Signal::SIGSYS,
];

/// A signal came that means: stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Interrupted by signal {signal}")]
pub struct Interrupted {
    /// Its number.
    pub signal: i32,
}

/// The signals that mean stop, from now on remembered.
#[derive(Clone, Debug)]
pub struct Interrupts {
    last: Arc<AtomicUsize>,
}

impl Interrupts {
    /// Starts to remember.
    ///
    /// # Errors
    /// When the handlers cannot be set.
    pub fn catch() -> io::Result<Self> {
        let last = Arc::new(AtomicUsize::new(0));
        for signal in INTERRUPTING {
            let number = signal as i32;
            let value = usize::try_from(number).unwrap_or_default();
            signal_hook::flag::register_usize(number, Arc::clone(&last), value)?;
        }
        signal_hook::flag::register_usize(Signal::SIGPIPE as i32, Arc::default(), 0)?;
        Ok(Self { last })
    }

    /// As if this signal had come; 0: none. Nothing is caught.
    #[cfg(test)]
    pub(crate) fn as_if(signal: usize) -> Self {
        Self { last: Arc::new(AtomicUsize::new(signal)) }
    }

    /// Whether there was one.
    ///
    /// # Errors
    /// There was.
    pub fn check(&self) -> Result<(), Interrupted> {
        match self.last.load(Ordering::SeqCst) {
            0 => Ok(()),
            number => Err(Interrupted { signal: i32::try_from(number).unwrap_or_default() }),
        }
    }
}

/// Every signal that is passed on, as a descriptor.
#[derive(Debug)]
pub struct SignalStream {
    descriptor: SignalFd,
}

impl SignalStream {
    /// Takes the signals of this thread, and of those that it starts from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open() -> io::Result<Self> {
        let mut set = SigSet::all();
        for signal in OWN {
            set.remove(signal);
        }
        set.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self { descriptor: SignalFd::with_flags(&set, flags)? })
    }

    /// The next signal's number, if one is there.
    ///
    /// # Errors
    /// When the descriptor fails.
    pub fn next(&self) -> io::Result<Option<i32>> {
        let info = self.descriptor.read_signal()?;
        Ok(info.and_then(|info| i32::try_from(info.ssi_signo).ok()))
    }
}

impl AsFd for SignalStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The text is not a signal. The words are runc's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown signal {0:?}")]
pub struct UnknownSignal(String);

/// A signal's number from its number (0 to 64; 0 asks whether the process is there) or its name,
/// with or without `SIG`.
///
/// # Errors
/// When it is neither.
pub fn parse_signal(text: &str) -> Result<i32, UnknownSignal> {
    const FIRST_REAL_TIME: i32 = 34;
    const LAST: i32 = 64;
    let unknown = || UnknownSignal(text.to_owned());
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=LAST).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i32>().ok() };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest.strip_prefix('+').unwrap_or(rest)).map(|offset| FIRST_REAL_TIME + offset)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest).filter(|offset| *offset <= 0).map(|offset| LAST + offset)
    } else {
        format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)
    };
    number.filter(|number| (1..=LAST).contains(number)).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_a_name_or_a_number() {
        let known = [
            ("0", 0),
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("WINCH", 28),
            ("RTMIN", 34),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("64", 64),
        ];
        for (text, number) in known {
            assert_eq!(parse_signal(text), Ok(number), "{text}");
        }
        for text in ["", "65", "-9", "NOPE", "RTMIN+31", "RTMAX+1", "SIGSIGKILL"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
