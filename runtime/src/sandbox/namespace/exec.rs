//! `exec`, from the caller's side.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

use super::cgroup;
use super::helper::{Helper, Preserved};
use super::hook::HookState;
use super::job::{Job, JoinJob};
use super::listener::{self, Listener};
use super::process::{CapabilityPlan, ProcessPlan};
use super::record::Record;
use super::report::Report;
use super::sys;
use super::terminal;
use super::unsupported::{self, Unsupported};
use crate::host::stdio::ProcessStdio;
use crate::sandbox::request::{Attachment, ExecRequest, StartFailureKind};
use crate::sandbox::subgroup;

/// Why no process was added.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The process asks for what this kind of sandbox cannot do.
    #[error("Namespaces cannot serve {}", unsupported::list(.0))]
    Unsupported(Vec<Unsupported>),
    /// `create` did not finish, or the state folder was changed.
    #[error("The record of the container cannot be read")]
    Record(#[source] io::Error),
    /// The container's first process is not there.
    #[error("The container does not run")]
    NotRunning,
    /// `--cgroup` leads out of the container's group, or to none.
    /// The words are runc's.
    #[error("bad sub cgroup path: {0} is no control group below the container's")]
    Cgroup(String),
    /// `--cgroup` names a controller that no hierarchy of the container has. The words are runc's.
    #[error("unknown controller {0} in --cgroup")]
    UnknownController(String),
    /// `--cgroup` names a group that is not there. The words are runc's.
    #[error("error adding pid to cgroups: {0}: no such file or directory")]
    NoCgroup(PathBuf),
    /// A process could not be started.
    #[error("Cannot {step}")]
    Host {
        /// In words that complete `cannot ...`.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The program is at fault.
    #[error("{message}")]
    Program {
        /// How.
        kind: StartFailureKind,
        /// In runc's words.
        message: String,
    },
    /// The process says why it could not become the program.
    #[error("{0}")]
    Process(String),
}

impl ExecError {
    /// Whether the program itself is at fault.
    #[must_use]
    pub fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::Program { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}

fn host(step: &'static str) -> impl FnOnce(io::Error) -> ExecError {
    move |source| ExecError::Host { step, source }
}

/// Adds a process to a running container. It is a child of the calling process.
///
/// # Errors
/// When the container does not run, or the process could not be made; then nothing of it is left.
pub fn exec(request: ExecRequest, _: Attachment) -> Result<ExecStarted, ExecError> {
    let refused = unsupported::in_exec(&request.process);
    if !refused.is_empty() {
        return Err(ExecError::Unsupported(refused));
    }
    let record = Record::load(&request.state_folder).map_err(ExecError::Record)?;
    let size = match &request.stdio {
        ProcessStdio::Terminal { size, .. } => Some(*size),
        ProcessStdio::Inherit { .. } => None,
    };
    let sockets = size.is_some().then(terminal::socket_pair).transpose();
    let (ours, theirs) = sockets.map_err(host("make a console socket"))?.unzip();
    let listener = listener(&request, &record).map_err(host("connect the listener"))?;
    let init = record.init.filter(|init| init.is_alive()).ok_or(ExecError::NotRunning)?;
    let job = Job::Join(Box::new(JoinJob {
        init,
        root: record.root,
        cgroups: groups(&record.cgroups, &request.cgroup, init.pid)?,
        cgroups_are_named: !request.cgroup.is_empty(),
        process: process_plan(&request, record),
        console: None,
    }));
    let preserved = Preserved { count: request.preserve_fds, may_be_closed: false };
    let mut helper = Helper::spawn(job, request.stdio, theirs, listener, preserved)
        .map_err(host("start the process that enters the container"))?;
    tracing::debug!("nsexec container setup");
    let pid = wait_until_executed(&mut helper)?;
    tracing::debug!(pid, "child process in init(): it has executed its program");
    tracing::debug!("setns_init: about to exec is over");
    // It is our child and not waited for: its number cannot be used again.
    let pidfd = Pid::from_raw(pid)
        .ok_or(io::ErrorKind::NotFound.into())
        .and_then(|p| Ok(rustix::process::pidfd_open(p, PidfdFlags::empty())?))
        .map_err(host("hold the process"))?;
    let terminal = ours.map(|socket| terminal::receive(&socket, size.flatten())).transpose();
    let terminal = terminal.map_err(host("receive the terminal"))?;
    let window = terminal.as_ref().map(OwnedFd::try_clone).transpose();
    let window = window.map_err(host("hold the terminal"))?;
    Ok(ExecStarted { pid, pidfd, terminal, window })
}

/// As for the container's first process, which the state names.
fn listener(request: &ExecRequest, record: &Record) -> io::Result<Option<(Listener, OwnedFd)>> {
    let profile = request.spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    let Some(profile) = profile.filter(|profile| listener::is_used(profile)) else {
        return Ok(None);
    };
    let spec = &request.spec;
    let state = HookState {
        oci_version: spec.version().clone(),
        id: request.id.to_string(),
        status: "running".to_owned(),
        pid: record.init.map_or(0, |init| init.pid),
        bundle: request.bundle.clone(),
        folder: None,
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
    };
    Listener::open(profile, state).map(Some)
}

/// What the caller said, over what the container has.
fn process_plan(request: &ExecRequest, record: Record) -> ProcessPlan {
    let container = request.spec.process().clone().unwrap_or_default();
    let mut process = request.process.clone();
    // What the process says nothing of is as the container's is.
    if process.scheduler().is_none() {
        process.set_scheduler(container.scheduler().clone());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(*container.io_priority());
    }
    if process.exec_cpu_affinity().is_none() {
        process.set_exec_cpu_affinity(container.exec_cpu_affinity().clone());
    }
    let linux = request.spec.linux().as_ref();
    let mut plan = ProcessPlan::from_spec(&process, linux, record.seccomp);
    if let Some(cpus) = &plan.scheduling.affinity.before {
        let mask = cpus.iter().filter(|cpu| **cpu < 128).fold(0_u128, |mask, cpu| mask | 1 << cpu);
        tracing::debug!("nsexec: affinity: {mask:#x}");
    }
    plan.preserve_fds = request.preserve_fds;
    plan.no_new_privileges |= record.no_new_privileges;
    plan.new_session_keyring = record.new_session_keyring;
    if let Some(container) = request.spec.process() {
        if request.process.capabilities().is_none() {
            plan.capabilities = container
                .capabilities()
                .as_ref()
                .map(CapabilityPlan::from_spec)
                .unwrap_or_default();
        }
        let profile = container.apparmor_profile().clone().filter(|p| !p.is_empty());
        plan.apparmor_profile = plan.apparmor_profile.or(profile);
    }
    plan
}

/// The container's groups, or those below them that `--cgroup` names. Where the container has moved
/// itself elsewhere and somebody has removed its own, those of its first process.
fn groups(own: &[PathBuf], below: &[String], init: i32) -> Result<Vec<PathBuf>, ExecError> {
    let mut groups = own.to_vec();
    for said in below {
        let (controllers, path) = said.split_once(':').unwrap_or(("", said));
        let relative = subgroup::stay_below(path).ok_or_else(|| ExecError::Cgroup(said.clone()))?;
        for controller in controllers.split(',') {
            let mut known = false;
            for (group, own) in groups.iter_mut().zip(own) {
                if controller.is_empty() || cgroup::has_controller(own, controller) {
                    *group = own.join(&relative);
                    known = true;
                }
            }
            if !known {
                return Err(ExecError::UnknownController(controller.to_owned()));
            }
        }
    }
    match groups.iter().find(|group| !cgroup::exists(group)) {
        Some(_) if below.is_empty() => {
            cgroup::of_process(init).map_err(host("find the container's control groups"))
        }
        Some(missing) => Err(ExecError::NoCgroup(missing.clone())),
        None => Ok(groups),
    }
}

/// The reports end when the program is executed: then every copy of the pipe is closed.
fn wait_until_executed(helper: &mut Helper) -> Result<i32, ExecError> {
    let mut pid = None;
    let mut failure = None;
    while let Some(report) = helper.next_report() {
        match report {
            Report::Ready { pid: made, .. } => pid = Some(made),
            Report::Failed { kind: Some(kind), message } => {
                failure = failure.or(Some(ExecError::Program { kind, message }));
            }
            Report::Failed { kind: None, message } => {
                failure = failure.or(Some(ExecError::Process(message)));
            }
            Report::Log { .. } => {}
        }
    }
    helper.join().map_err(host("wait for the process that enters the container"))?;
    match (failure, pid) {
        (None, Some(pid)) => Ok(pid),
        (failure, pid) => {
            if let Some(pid) = pid {
                reap(pid);
            }
            let killed = "The process that enters the container was killed".to_owned();
            Err(failure.unwrap_or(ExecError::Process(killed)))
        }
    }
}

fn reap(pid: i32) {
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
}

/// A process that was added.
#[derive(Debug)]
pub struct ExecStarted {
    pid: i32,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    /// The terminal once more, for its size.
    window: Option<OwnedFd>,
}

/// Waiting failed.
#[derive(Debug, thiserror::Error)]
#[error("Cannot wait for the process")]
pub struct WaitError(#[source] io::Error);

/// A signal was not sent.
#[derive(Debug, thiserror::Error)]
#[error("Cannot send signal {signal}")]
pub struct SignalError {
    signal: i32,
    source: io::Error,
}

/// A terminal's size was not changed.
#[derive(Debug, thiserror::Error)]
#[error("Cannot resize the terminal")]
pub struct ResizeError(#[source] io::Error);

impl ExecStarted {
    /// The process, as the host numbers it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The terminal's master side, once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Waits for the process's end: its exit code, or 128 and the signal.
    ///
    /// # Errors
    /// When it was waited for elsewhere.
    pub fn wait(&self) -> Result<u8, WaitError> {
        loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)
            {
                Ok(Some(status)) => return Ok(exit_code(&status)),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(WaitError(e.into())),
            }
        }
    }

    /// Sends it a signal. One that has ended gets none, and that is no error.
    ///
    /// # Errors
    /// When the signal is none.
    pub fn signal(&self, signal: i32) -> Result<(), SignalError> {
        match sys::send_signal(self.pidfd.as_fd(), signal) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.map_err(|source| SignalError { signal, source }),
        }
    }

    /// Changes its terminal's size, if it has one.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), ResizeError> {
        match &self.window {
            Some(master) => terminal::resize(master, rows, columns).map_err(ResizeError),
            None => Ok(()),
        }
    }
}

fn exit_code(status: &rustix::process::WaitIdStatus) -> u8 {
    let code = status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        .unwrap_or(255);
    u8::try_from(code & 0xff).unwrap_or(255)
}
