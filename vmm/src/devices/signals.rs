//! Signals that somebody sends to the monitor, whose pid is the container's for everybody on the
//! host: they are the first program's, as if that had the pid. What is about a process itself
//! (faults, children, terminals in the background) stays the monitor's own, and what nobody can
//! catch (`SIGKILL`, `SIGSTOP`) is the kernel's.

use std::os::fd::{AsFd, BorrowedFd};

use cofferdam_protocol::lifeline::signal_word;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys;

/// What has arrived and is not passed on yet. As with the kernel's own, one that is sent again
/// before that is there once.
#[derive(Debug)]
pub struct Signals {
    source: SignalFd,
    pending: u64,
}

impl Signals {
    /// Takes signals instead of being interrupted or ended by them: to be called before any other
    /// thread is there, so that all inherit it.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub fn redirect() -> nix::Result<Self> {
        let forwarded = sys::forwarded_signals();
        forwarded.thread_block()?;
        Self::of(&forwarded)
    }

    fn of(signals: &SigSet) -> nix::Result<Self> {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self { source: SignalFd::with_flags(signals, flags)?, pending: 0 })
    }

    /// Takes what has arrived.
    pub fn take(&mut self) {
        while let Ok(Some(signal)) = self.source.read_signal() {
            self.pending |= bit(signal.ssi_signo);
        }
    }

    /// Whether this one has arrived; it is not any more.
    pub fn withdraw(&mut self, signal: u32) -> bool {
        let was_there = self.pending & bit(signal) != 0;
        self.pending &= !bit(signal);
        was_there
    }

    /// What tells the agent of everything that has arrived.
    pub fn words(&mut self) -> Vec<u8> {
        let pending = std::mem::take(&mut self.pending);
        // Asked after everything that happens, and nearly always in vain.
        if pending == 0 {
            return Vec::new();
        }
        (1..=u64::BITS)
            .filter(|signal| pending & bit(*signal) != 0)
            .filter_map(signal_word)
            .collect()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

/// Signals count from 1.
fn bit(signal: u32) -> u64 {
    signal.checked_sub(1).and_then(|place| 1u64.checked_shl(place)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread's own signals, so that no other test gets them.
    fn signals() -> Signals {
        let set = sys::forwarded_signals();
        set.thread_block().unwrap();
        Signals::of(&set).unwrap()
    }

    fn send(signal: libc::c_int) {
        sys::send_to_this_thread(signal);
    }

    #[test]
    fn what_is_sent_is_passed_on_once_and_in_order() {
        let mut signals = signals();
        let realtime = libc::SIGRTMIN() + 3;
        for signal in [realtime, libc::SIGTERM, libc::SIGUSR1, libc::SIGTERM] {
            send(signal);
        }
        signals.take();
        let words = [libc::SIGUSR1, libc::SIGTERM, realtime]
            .map(|signal| signal_word(signal.cast_unsigned()).unwrap());
        assert_eq!(signals.words(), words);
        assert!(signals.words().is_empty());
    }

    #[test]
    fn one_that_is_withdrawn_is_not_passed_on() {
        let mut signals = signals();
        let resize = libc::SIGWINCH.cast_unsigned();
        send(libc::SIGWINCH);
        signals.take();
        assert!(signals.withdraw(resize));
        assert!(!signals.withdraw(resize));
        assert!(signals.words().is_empty());
    }

    #[test]
    fn what_is_about_the_monitor_itself_is_not_taken() {
        let forwarded = sys::forwarded_signals();
        use nix::sys::signal::Signal::*;
        for own in [SIGSEGV, SIGBUS, SIGCHLD, SIGPIPE, SIGXFSZ, SIGTTOU, SIGSTKFLT] {
            assert!(!forwarded.contains(own), "{own}");
        }
    }
}
