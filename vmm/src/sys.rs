//! The monitor's own descriptors, taken over from numbers, and signals between its threads.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Takes over an inherited descriptor, and keeps it from programs (there are none). `None` when
/// it is not open.
///
/// The caller asks for each number at most once.
pub(crate) fn take_descriptor(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: changing the flags of a descriptor touches no memory, and fails if it is not open.
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if result != 0 {
        return None;
    }
    // SAFETY: the descriptor is open. It was inherited, so nothing in this process owns it yet;
    // the caller takes each number once, before anything else is opened.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What a thread of the monitor's is interrupted by.
const INTERRUPTION: libc::c_int = libc::SIGUSR1;

/// A thread of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thread {
    process: libc::pid_t,
    thread: libc::pid_t,
}

impl Thread {
    /// The calling one.
    pub(crate) fn current() -> Self {
        // SAFETY: neither call touches memory or can fail.
        let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
        Self { process, thread }
    }

    /// Ends a system call that it waits in.
    pub(crate) fn interrupt(self) {
        // SAFETY: the numbers are a thread's of this process, and no thread of the monitor ends
        // while it runs; the signal's handler does nothing. A failure is seen by the thread not
        // stopping.
        unsafe { libc::syscall(libc::SYS_tgkill, self.process, self.thread, INTERRUPTION) };
    }
}

/// Lets the signal of [`Thread::interrupt`] do nothing but that.
pub(crate) fn ignore_interruptions() -> nix::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    let signal = Signal::try_from(INTERRUPTION)?;
    // SAFETY: the handler does nothing, so it is safe at any moment.
    unsafe { sigaction(signal, &action) }.map(drop)
}

/// Closes every descriptor from `first` to `last`, inclusive.
pub(crate) fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the caller names only descriptors that nothing in this process owns.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
