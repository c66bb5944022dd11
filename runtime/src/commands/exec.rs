//! `exec`: one more process in a container.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::str::FromStr;
use std::thread;

use oci_spec::runtime::{Capability, Process, Spec};

use crate::cli::ExecArgs;
use crate::commands::creation::{ConsoleError, TerminalOwner, hand_over_terminal, terminal_size};
use crate::commands::{Context, IdError, parse_id};
use crate::host::log::with_causes;
use crate::host::relay::{SignalSink, relay};
use crate::host::replace::replace_file;
use crate::host::signals::{Interrupts, SignalStream};
use crate::host::stdio::ProcessStdio;
use crate::host::terminal::{self, HandOverError, WindowSize};
use crate::sandbox::request::{Attachment, ExecRequest, StartFailureKind};
use crate::sandbox::{self, ExecStarted};
use crate::spec::process::{ProcessOverrides, assemble};
use crate::spec::rules::{self, InvalidSpec};
use crate::spec::{self, SpecError};
use crate::state::status::{Refusal, Transition};
use crate::state::store::{Entry, StoreError};

/// Why the process does not run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The state folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Neither a command nor `--process`. The words are runc's.
    #[error("process args cannot be empty")]
    NoCommand,
    /// `--cap`.
    #[error("unknown capability {0:?}")]
    UnknownCapability(String),
    /// The container's configuration, or the file of `--process`.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The process is wrong.
    #[error("Invalid process")]
    Invalid(#[from] InvalidSpec),
    /// The terminal and the flags about it contradict each other.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] sandbox::ExecError),
    /// The console socket, or that of `--pidfd-socket`.
    #[error(transparent)]
    HandOver(#[from] HandOverError),
    /// The end of the process.
    #[error(transparent)]
    Wait(#[from] sandbox::WaitError),
    /// Anything else of the host.
    #[error("Cannot {step}")]
    Host {
        /// In words that complete `cannot …`.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl ExecError {
    /// Whether it is the program's own fault.
    #[must_use]
    pub fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::Sandbox(error) => error.start_failure(),
            _ => None,
        }
    }
}

fn host(step: &'static str) -> impl FnOnce(io::Error) -> ExecError {
    move |source| ExecError::Host { step, source }
}

pub(super) fn run(context: &Context, args: &ExecArgs) -> Result<u8, ExecError> {
    let entry = context.store.open(&parse_id(&args.target.id)?)?;
    let transition =
        if args.ignore_paused { Transition::ExecWhenResumed } else { Transition::Exec };
    entry.record.permit(transition)?;
    let interrupts = Interrupts::catch().map_err(host("catch signals"))?;
    let spec = entry.sandbox().spec()?;
    let process = process(args, &spec)?;
    check(args, &process)?;
    let attachment = if args.detach { Attachment::Detached } else { Attachment::Foreground };
    let request = request(args, &entry, spec, process)?;
    let mut started = sandbox::exec(entry.record.isolation, request, attachment)?;
    if let Some(socket) = &args.pidfd_socket {
        terminal::send_pidfd(socket, started.pid()).inspect_err(|_| stop(&started))?;
    }
    write_pid_file(args.pid_file.as_deref(), started.pid()).inspect_err(|_| stop(&started))?;
    let socket = args.console_socket.as_deref();
    let terminal = hand_over_terminal(started.take_terminal(), socket).inspect_err(|_| {
        stop(&started);
        // It would name a process that is gone.
        args.pid_file.as_ref().map(fs::remove_file);
    })?;
    match attachment {
        Attachment::Detached => Ok(0),
        Attachment::Foreground => attend(&started, terminal, &interrupts),
    }
}

/// The process: from the file, or from the flags over the container's own.
fn process(args: &ExecArgs, spec: &Spec) -> Result<Process, ExecError> {
    if let Some(path) = &args.process {
        let mut process: Process = spec::read_document(path)?;
        if args.tty {
            process.set_terminal(Some(true));
        }
        return Ok(process);
    }
    if args.command.is_empty() {
        return Err(ExecError::NoCommand);
    }
    let overrides = ProcessOverrides {
        args: args.command.clone(),
        cwd: args.cwd.clone(),
        env: args.env.clone(),
        terminal: args.tty,
        user: args.user,
        additional_gids: args.additional_gids.clone(),
        capabilities: args.cap.iter().map(|name| capability(name)).collect::<Result<_, _>>()?,
        no_new_privileges: args.no_new_privs,
        apparmor: args.apparmor.clone(),
        label: args.process_label.clone(),
    };
    // The rules had seen that there is one.
    let of_container = spec.process().clone().unwrap_or_default();
    Ok(assemble(&of_container, overrides))
}

fn capability(name: &str) -> Result<Capability, ExecError> {
    let bare = name.strip_prefix("CAP_").unwrap_or(name);
    Capability::from_str(bare).map_err(|_| ExecError::UnknownCapability(name.to_owned()))
}

fn check(args: &ExecArgs, process: &Process) -> Result<(), ExecError> {
    rules::check_process(process)?;
    let owner = if args.detach { TerminalOwner::ConsoleSocket } else { TerminalOwner::Caller };
    Ok(owner.check(process.terminal().unwrap_or(false), args.console_socket.as_deref())?)
}

fn request(
    args: &ExecArgs,
    entry: &Entry,
    spec: Spec,
    process: Process,
) -> Result<ExecRequest, ExecError> {
    let stdio = if process.terminal().unwrap_or(false) {
        ProcessStdio::Terminal { size: terminal_size(&process), relayed: !args.detach }
    } else {
        ProcessStdio::inherited().map_err(host("duplicate standard streams"))?
    };
    Ok(ExecRequest {
        id: entry.record.id.clone(),
        bundle: entry.record.bundle.clone(),
        state_folder: entry.folder.clone(),
        process,
        spec,
        stdio,
        preserve_fds: args.preserve_fds,
        cgroup: args.cgroup.clone(),
    })
}

fn write_pid_file(path: Option<&Path>, pid: i32) -> Result<(), ExecError> {
    const WORLD_READABLE: u32 = 0o644;
    let Some(path) = path else { return Ok(()) };
    replace_file(path, pid.to_string().as_bytes(), WORLD_READABLE)
        .map_err(host("write the pid file"))
}

/// A process that nobody would know of must not stay.
fn stop(started: &ExecStarted) {
    if let Err(error) = started.signal(libc::SIGKILL) {
        tracing::warn!("{}", with_causes(&error));
    }
}

/// Stays until the process has ended: one thread waits for it, this one relays.
fn attend(
    started: &ExecStarted,
    terminal: Option<std::os::fd::OwnedFd>,
    interrupts: &Interrupts,
) -> Result<u8, ExecError> {
    let signals = SignalStream::open().map_err(host("take signals"))?;
    let mut sink = ToProcess(started);
    if let Err(interrupted) = interrupts.check() {
        sink.forward(interrupted.signal);
    }
    let (ended, end) = io::pipe().map_err(host("make a pipe"))?;
    thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            let code = started.wait();
            drop(end);
            code
        });
        relay(ended.as_fd(), &signals, terminal, &mut sink).map_err(host("relay the terminal"))?;
        match waiter.join() {
            Ok(code) => Ok(code?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

struct ToProcess<'a>(&'a ExecStarted);

impl SignalSink for ToProcess<'_> {
    fn forward(&mut self, signal: i32) {
        if let Err(error) = self.0.signal(signal) {
            tracing::warn!("Signal {signal} did not reach the process: {}", with_causes(&error));
        }
    }

    fn resized(&mut self, size: WindowSize) {
        if let Err(error) = self.0.resize(size.rows, size.columns) {
            tracing::debug!("{}", with_causes(&error));
        }
    }
}
