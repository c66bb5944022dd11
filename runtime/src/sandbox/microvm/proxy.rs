//! The proxy of a detached exec: a process of the host that stands for one in the guest.
//!
//! Its pid is what `--pid-file` gets; it ends when the guest's process ends, with its exit code;
//! signals to it go to the guest's process; and when it has a terminal, a resize of that goes there
//! as well. It is forked by a runtime with one thread, holds none of the caller's descriptors, and
//! is a session of its own.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::tcgetwinsize;

use super::agent::REQUEST_TIMEOUT;
use super::exec::{GuestProcess, LOST_CODE, signal_request};
use crate::host::sys::{self, ForkSide};

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It cannot take signals.
    #[error("Signals cannot be taken")]
    Signals(#[source] io::Error),
    /// It cannot be forked.
    #[error("No further process can be made")]
    Fork(#[source] io::Error),
}

/// Forks a proxy; its number.
pub(super) fn spawn(process: GuestProcess, terminal: Option<OwnedFd>) -> Result<i32, ProxyError> {
    // Blocked before the fork, so that none is lost between.
    let before = SigSet::thread_get_mask().map_err(|errno| ProxyError::Signals(errno.into()))?;
    let taken = forwarded();
    taken.thread_block().map_err(|errno| ProxyError::Signals(errno.into()))?;
    let signals = SignalFd::with_flags(&taken, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|errno| ProxyError::Signals(errno.into()))?;
    match sys::fork().map_err(ProxyError::Fork)? {
        ForkSide::Parent(pid) => {
            before.thread_set_mask().map_err(|errno| ProxyError::Signals(errno.into()))?;
            Ok(pid)
        }
        ForkSide::Child => {
            let mut proxy = Proxy { process, signals, terminal };
            let code = proxy.settle().and_then(|()| proxy.run()).unwrap_or(LOST_CODE);
            // Not `exit`: what the parent registered to run at its end is the parent's.
            sys::exit_now(code)
        }
    }
}

/// All but those that are about the proxy itself.
fn forwarded() -> SigSet {
    let mut set = SigSet::all();
    for own in [
        Signal::SIGCHLD,
        Signal::SIGPIPE,
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGABRT,
    ] {
        set.remove(own);
    }
    set
}

struct Proxy {
    process: GuestProcess,
    signals: SignalFd,
    /// The slave side: its size is the guest's terminal's.
    terminal: Option<OwnedFd>,
}

impl Proxy {
    /// Lets go of everything of the caller's.
    fn settle(&self) -> io::Result<()> {
        rustix::process::setsid()?;
        if let Some(terminal) = &self.terminal {
            rustix::process::ioctl_tiocsctty(terminal)?;
        }
        rustix::process::chdir("/")?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        // From here on nothing that is not kept may be dropped: its number is closed already.
        drop(null);
        let mut kept = vec![
            self.process.agent.connection().as_fd(),
            self.process.streams.as_fd(),
            self.signals.as_fd(),
        ];
        kept.extend(self.terminal.as_ref().map(AsFd::as_fd));
        sys::close_all_but(&kept)
    }

    /// Until the guest's process ends.
    fn run(&mut self) -> io::Result<u8> {
        loop {
            match self.process.agent.taken_end(self.process.end) {
                Ok(Some(code)) => {
                    // Nobody is there to hear that the output was lost.
                    let _ = self.process.streams.drain();
                    return Ok(code);
                }
                Ok(None) => {}
                Err(_) => return Ok(LOST_CODE),
            }
            let mut ready = [
                PollFd::new(self.process.agent.connection(), PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            match poll(&mut ready, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let [answer, signal] = ready.map(|fd| !fd.revents().is_empty());
            if signal {
                self.forward_signals();
            }
            if answer && self.process.agent.read_answers().is_err() {
                return Ok(LOST_CODE);
            }
        }
    }

    /// A guest that does not take a signal is no reason to stop waiting for its process.
    fn forward_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
            if number == libc::SIGWINCH && self.terminal.is_some() {
                self.forward_size();
                continue;
            }
            let request = signal_request(&self.process.container, self.process.token, number);
            let _ = self.process.agent.signal(&request, REQUEST_TIMEOUT);
        }
    }

    fn forward_size(&mut self) {
        let size = self.terminal.as_ref().and_then(|terminal| tcgetwinsize(terminal).ok());
        if let Some(size) = size {
            let (rows, columns) = (size.ws_row, size.ws_col);
            let _ = self.process.agent.resize(self.process.token, rows, columns);
        }
    }
}
