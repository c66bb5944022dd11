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

/// What a thread of the monitor's is interrupted by: a signal that neither the kernel nor anybody
/// else sends, so that it is not missed where signals are passed on.
const INTERRUPTION: libc::c_int = libc::SIGSTKFLT;

/// What a process is told about itself.
const OWN_SIGNALS: [libc::c_int; 14] = [
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGPIPE,
    libc::SIGCHLD,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    INTERRUPTION,
];

/// Every signal that can be caught, real-time ones included, but those that are about the process
/// which gets them.
pub(crate) fn forwarded_signals() -> SigSet {
    // SAFETY: the set lives through the calls, which fill it before it is read; signals that do not
    // exist, and those that libc keeps, are refused without effect.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(set.as_mut_ptr());
        for signal in OWN_SIGNALS {
            libc::sigdelset(set.as_mut_ptr(), signal);
        }
        SigSet::from_sigset_t_unchecked(set.assume_init())
    }
}

/// A signal that no other thread can take.
#[cfg(test)]
pub(crate) fn send_to_this_thread(signal: libc::c_int) {
    // SAFETY: neither call touches memory.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal) };
}

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

/// Has this thread not take the processor from another when something comes for it (`SCHED_BATCH`,
/// sched(7)): on one that is busy with the guest, what the guest sends gathers until its vCPU waits
/// or has had its turn; on any other the thread goes on at once.
pub(crate) fn wait_for_a_turn() -> io::Result<()> {
    let priority = libc::c_int::default();
    // SAFETY: `sched_param` is one `int` for the kernel, which only reads it. musl's own function
    // refuses to make the call.
    let result = unsafe {
        libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, &raw const priority)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
