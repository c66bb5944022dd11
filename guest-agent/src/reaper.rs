//! Ended children are collected here, and whoever waits for one is told its exit code.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{WaitOptions, WaitStatus};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::sys;

/// `sizeof(struct signalfd_siginfo)`.
const SIGNAL_BYTES: usize = 128;
/// Added to a signal's number, as a shell does.
const SIGNALLED: i32 = 128;

/// Collects children. Must run on the thread that starts them.
#[derive(Clone, Debug, Default)]
pub struct Reaper {
    waiting: Arc<Mutex<HashMap<u32, oneshot::Sender<u8>>>>,
}

impl Reaper {
    /// Starts collecting in the background, as often as the kernel says that a child ended.
    ///
    /// # Errors
    /// When the kernel gives no signal descriptor.
    pub fn start() -> io::Result<Self> {
        let reaper = Self::default();
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        signals.thread_block()?;
        let descriptor =
            SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let descriptor = sys::register(descriptor.as_fd().try_clone_to_owned()?)?;
        tokio::spawn(reaper.clone().run(descriptor));
        Ok(reaper)
    }

    /// The exit code of a child, when it ends. Between its start and this call nothing may be
    /// awaited, or its end could be missed.
    pub(crate) fn watch(&self, pid: u32) -> oneshot::Receiver<u8> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(pid, sender);
        receiver
    }

    async fn run(self, signals: AsyncFd<OwnedFd>) {
        while let Ok(mut ready) = signals.readable().await {
            // Before the signals are taken: a later one makes it ready again.
            ready.clear_ready();
            while rustix::io::read(&signals, &mut [0; SIGNAL_BYTES]).is_ok() {}
            self.collect();
        }
    }

    fn collect(&self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get().cast_unsigned();
            if let Some(waiting) = self.lock().remove(&pid) {
                // Nobody waits any more: nobody is to be told.
                let _ = waiting.send(exit_code(status));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<u8>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As a shell has it.
fn exit_code(status: WaitStatus) -> u8 {
    let signal = status.terminating_signal().map(|signal| SIGNALLED + signal);
    let code = status.exit_status().or(signal).unwrap_or(SIGNALLED);
    u8::try_from(code).unwrap_or(u8::MAX)
}
