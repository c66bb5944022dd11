//! `run`: create, start, and in the foreground stay until the container has ended.
//!
//! ```text
//!   create ─▶ start ─▶ relay (terminal, signals) ─▶ reap ─▶ exit record ─▶ delete ─▶ exit code
//!               └────────────── any error or interruption ──────────────────▲
//! ```

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use cofferdam_protocol::boot::{ExitCause, ExitRecord};
use cofferdam_protocol::bounds::MAX_BOOT_REPORT_BYTES;
use cofferdam_protocol::frame::read_frame;

use crate::cli::RunArgs;
use crate::commands::creation::{self, Creation, CreationError, TerminalOwner};
use crate::commands::start::StartError;
use crate::commands::{CommandError, Context, delete, start};
use crate::host::log::{self, with_causes};
use crate::host::process::{self, ProcessEnd};
use crate::host::relay::{SignalSink, relay};
use crate::host::signals::{Interrupted, Interrupts, SignalStream};
use crate::host::terminal::WindowSize;
use crate::kind::SandboxKind;
use crate::sandbox;
use crate::sandbox::microvm::POD_NOTE;
use crate::sandbox::request::{KillRequest, SandboxRef, StartFailureKind};
use crate::state::status::Status;
use crate::state::store::{Entry, StoreError};

/// The monitor's last word in the state folder.
const EXIT_RECORD: &str = "exit";

/// Why the container did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its program does not run.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It was restored and does not go on.
    #[error(transparent)]
    Resume(#[from] sandbox::FreezeError),
    /// Nobody follows its network.
    #[error(transparent)]
    Network(#[from] sandbox::microvm::NetworkError),
    /// Its state cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Ctrl-C, or whoever wants it to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Anything else of the host.
    #[error("Cannot {step}")]
    Host {
        /// In words that complete `cannot …`.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl RunError {
    /// Whether it is the program's own fault.
    #[must_use]
    pub fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::Start(error) => error.start_failure(),
            Self::Resume(_)
            | Self::Network(_)
            | Self::Store(_)
            | Self::Interrupted(_)
            | Self::Host { .. } => None,
        }
    }
}

pub(super) fn run(context: &Context, args: &RunArgs) -> Result<u8, CommandError> {
    let interrupts = Interrupts::catch()
        .map_err(|source| CreationError::Host { step: "catch signals", source })?;
    let owner = if args.detach { TerminalOwner::ConsoleSocket } else { TerminalOwner::Caller };
    let mut creation = creation::create(context, &args.create, owner, &interrupts)?;
    let outcome = if args.detach {
        start_creation(context, &mut creation).map(|()| Outcome { code: 0, leave: true })
    } else {
        attend(context, &mut creation, &interrupts)
    };
    match outcome {
        Ok(Outcome { code, leave }) => {
            if !(leave || args.keep) {
                delete::delete(&creation.entry, &creation.lock)?;
            }
            Ok(code)
        }
        Err(error) => {
            if let Err(left) = delete::delete(&creation.entry, &creation.lock) {
                tracing::warn!("{}", with_causes(&left));
            }
            Err(error.into())
        }
    }
}

/// What became of a container.
struct Outcome {
    code: u8,
    /// It is not this command's to delete: it runs on, or was deleted by another.
    leave: bool,
}

fn start_creation(context: &Context, creation: &mut Creation) -> Result<(), RunError> {
    let Creation { entry, lock, spec, restored, .. } = creation;
    if *restored {
        sandbox::watch_network(entry.record.isolation, &entry.sandbox(), true)?;
        sandbox::resume(entry.record.isolation, &entry.sandbox())?;
        entry.record.phase = Status::Running;
        return Ok(entry.save(lock)?);
    }
    Ok(start::start(context, entry, lock, spec)?)
}

/// Starts it and stays until it has ended. The lock is held all the while but for the wait itself:
/// another command may kill and delete it.
fn attend(
    context: &Context,
    creation: &mut Creation,
    interrupts: &Interrupts,
) -> Result<Outcome, RunError> {
    let host = |step| move |source| RunError::Host { step, source };
    let sandbox = creation.entry.sandbox();
    let pid = sandbox.process.map_or(0, |process| process.pid);
    // Every child is started: from here on signals may be blocked.
    let signals = SignalStream::open().map_err(host("take signals"))?;
    interrupts.check()?;
    let ended = process::open_pidfd(pid).map_err(host("watch the container's process"))?;
    start_creation(context, creation)?;
    creation.lock.release();
    let kind = creation.entry.record.isolation;
    let mut sink = ToContainer { kind, sandbox: &sandbox };
    let relayed = relay(ended.as_fd(), &signals, creation.terminal.take(), &mut sink);
    relayed.map_err(host("relay the terminal"))?;
    let end = process::reap(pid).map_err(host("wait for the container's process"))?;
    let code = exit_code(&creation.entry, end);
    Ok(Outcome { code, leave: !creation.lock.retake(&creation.entry) })
}

struct ToContainer<'a> {
    kind: SandboxKind,
    sandbox: &'a SandboxRef,
}

impl SignalSink for ToContainer<'_> {
    fn forward(&mut self, signal: i32) {
        let request = KillRequest { signal, all: false };
        if let Err(error) = sandbox::kill(self.kind, self.sandbox, request) {
            tracing::warn!("Signal {signal} did not reach the container: {}", with_causes(&error));
        }
    }

    /// The sandbox's process has the terminal's other side, and is told by the kernel.
    fn resized(&mut self, _: WindowSize) {}
}

/// The code of the container's program. A monitor that was killed, or a guest that was lost, is a
/// container that did not succeed, whatever it did before: said on standard error.
fn exit_code(entry: &Entry, end: ProcessEnd) -> u8 {
    const KILLED: u8 = 137;
    // Of a pod's member this process is its proxy, which ends as its program does.
    let is_member = entry.record.notes.contains_key(POD_NOTE);
    if entry.record.isolation == SandboxKind::Namespace || is_member {
        return end.shell_code();
    }
    match (end, read_exit_record(entry).map(|record| record.cause)) {
        (ProcessEnd::Signaled(signal), _) => {
            log::fatal(&format!("The monitor of the microVM was killed by signal {signal}"));
            KILLED
        }
        (ProcessEnd::Exited(code), Some(ExitCause::GuestLost(reason))) => {
            log::fatal(&format!("The guest was lost: {reason}"));
            if code == 0 { KILLED } else { code }
        }
        (ProcessEnd::Exited(code), Some(ExitCause::OutOfMemory)) => {
            tracing::warn!("The guest's kernel ran out of memory and killed a process");
            code
        }
        (ProcessEnd::Exited(code), Some(ExitCause::Exited)) => code,
        (ProcessEnd::Exited(code), None) => {
            log::fatal(&format!("The monitor ended with {code} and left no exit record"));
            if code == 0 { KILLED } else { code }
        }
    }
}

/// What the monitor said of the end, if it came to that.
pub(super) fn read_exit_record(entry: &Entry) -> Option<ExitRecord> {
    let file = File::open(entry.folder.join(EXIT_RECORD)).ok()?;
    read_frame(file, MAX_BOOT_REPORT_BYTES).ok()
}
