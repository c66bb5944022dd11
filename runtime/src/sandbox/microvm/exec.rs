//! `exec`: one more process in the guest.
//!
//! The process is started and connected by the calling process in any case, so that what goes
//! wrong is its error. Then a foreground caller waits for the end itself; for a detached one a
//! proxy does ([`super::proxy`]).

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use cofferdam_protocol::agent::SignalRequest;
use cofferdam_protocol::control::Attach;
use cofferdam_protocol::id::{ContainerId, ProcessToken};
use rustix::rand::{GetRandomFlags, getrandom};

use super::agent::{Agent, AgentError, REQUEST_TIMEOUT};
use super::control::{self, ControlError, StreamsConnection};
use super::proxy::{self, ProxyError};
use super::rpc::Pending;
use super::stdio::{HostStreams, StdioError};
use crate::plan::{PlanError, exec_plan};
use crate::sandbox::request::{Attachment, ExecRequest, StartFailureKind};
use crate::sandbox::subgroup;

/// What a process has for an exit code when its guest went away.
pub(super) const LOST_CODE: u8 = 137;

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// `--preserve-fds`.
    #[error(
        "--preserve-fds is not possible in a microVM: a guest cannot use the host's descriptors"
    )]
    PreserveFds,
    /// `--cgroup` leads out of the container's group. The words are runc's.
    #[error("bad sub cgroup path: {0} is no control group below the container's")]
    Cgroup(String),
    /// `--cgroup` names a controller: in a guest all controllers share one tree (v2).
    #[error("unknown controller {0} in --cgroup")]
    Controller(String),
    /// What it is to be connected to.
    #[error("The process's streams cannot be prepared")]
    Stdio(#[source] StdioError),
    /// Its configuration.
    #[error("The process cannot be run in a microVM")]
    Plan(#[source] PlanError),
    /// No name for it.
    #[error("The kernel gives no random numbers")]
    Random(#[source] std::io::Error),
    /// The monitor cannot be reached.
    #[error("The container's microVM cannot be reached")]
    Control(#[source] ControlError),
    /// The guest did not start it.
    #[error("The process cannot be started")]
    Agent(#[source] AgentError),
    /// Nobody would wait for it.
    #[error("The process's proxy cannot be started")]
    Proxy(#[source] ProxyError),
}

impl ExecError {
    /// Whether the program itself was at fault.
    #[must_use]
    pub const fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::Agent(error) => error.start_failure(),
            _ => None,
        }
    }
}

/// Why a process's end is unknown.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// Its output.
    #[error("The process has ended, and what became of its output is unknown")]
    Drain(#[source] ControlError),
    /// A detached process is its proxy's to wait for.
    #[error("A detached process is waited for by its proxy")]
    Detached,
}

/// Why a signal was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The monitor cannot be reached.
    #[error("The container's microVM cannot be reached")]
    Control(#[source] ControlError),
    /// The guest did not take it.
    #[error("The guest did not take the signal")]
    Agent(#[source] AgentError),
}

/// Why a terminal was not resized.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// The monitor cannot be reached.
    #[error("The container's microVM cannot be reached")]
    Control(#[source] ControlError),
    /// The guest did not do it.
    #[error("The guest did not take the terminal's size")]
    Agent(#[source] AgentError),
}

/// A process in the guest, with everything that its watcher needs.
#[derive(Debug)]
pub(super) struct GuestProcess {
    pub(super) container: ContainerId,
    pub(super) token: ProcessToken,
    pub(super) agent: Agent,
    /// The request for its end.
    pub(super) end: Pending,
    pub(super) streams: StreamsConnection,
}

/// A process that was started.
#[derive(Debug)]
pub struct ExecStarted {
    pid: i32,
    terminal: Option<OwnedFd>,
    container: ContainerId,
    token: ProcessToken,
    state_folder: PathBuf,
    /// Taken by whoever waits; absent when a proxy does.
    watched: Mutex<Option<GuestProcess>>,
}

/// Starts one more process in a container.
///
/// # Errors
/// When it was not started; the guest is as before then.
pub fn exec(request: ExecRequest, attachment: Attachment) -> Result<ExecStarted, ExecError> {
    if request.preserve_fds > 0 {
        return Err(ExecError::PreserveFds);
    }
    let subgroup = subgroup(&request.cgroup)?;
    let ExecRequest { id, state_folder, process, spec, stdio, .. } = request;
    let streams = HostStreams::prepare(stdio).map_err(ExecError::Stdio)?;
    let plan = exec_plan(&process, &spec, streams.plan()).map_err(ExecError::Plan)?;
    let token = random_token().map_err(ExecError::Random)?;
    let connection = control::connect_agent(&state_folder, REQUEST_TIMEOUT);
    let mut agent = Agent::new(connection.map_err(ExecError::Control)?);
    agent.exec(&id, token, &plan, subgroup).map_err(ExecError::Agent)?;
    tracing::debug!(process = %token, "the guest executes the program");
    let (kinds, descriptors) = streams.attachment(false);
    let attach = Attach { process: token, streams: kinds, ends_sandbox: false };
    let connected = StreamsConnection::attach(&state_folder, attach, &descriptors, REQUEST_TIMEOUT)
        .map_err(ExecError::Control)?;
    let is_proxy = attachment == Attachment::Detached;
    let end = agent.ask_end(token, is_proxy).map_err(ExecError::Agent)?;
    let started = GuestProcess { container: id.clone(), token, agent, end, streams: connected };
    let own_pid = rustix::process::getpid().as_raw_nonzero().get();
    let (pid, terminal, watched) = match attachment {
        Attachment::Foreground => {
            (own_pid, streams.into_terminal().map(|(master, _)| master), Some(started))
        }
        Attachment::Detached => {
            let (master, slave) = streams.into_terminal().unzip();
            (proxy::spawn(started, slave).map_err(ExecError::Proxy)?, master, None)
        }
    };
    let watched = Mutex::new(watched);
    Ok(ExecStarted { pid, terminal, container: id, token, state_folder, watched })
}

/// The last group that `--cgroup` names, below the container's in the guest.
fn subgroup(said: &[String]) -> Result<Option<String>, ExecError> {
    let mut last = None;
    for said in said {
        if let Some((controllers, _)) = said.split_once(':') {
            return Err(ExecError::Controller(controllers.to_owned()));
        }
        let below = subgroup::stay_below(said).ok_or_else(|| ExecError::Cgroup(said.clone()))?;
        last = Some(format!("/{}", below.display()));
    }
    Ok(last)
}

impl ExecStarted {
    /// The process for the pid file: the proxy of a detached exec, or this process itself, which
    /// stays for a foreground one.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// The master side, when the request asked for a terminal. Once.
    pub const fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Blocks until the process has ended and its output is with the caller. A guest that went
    /// away has ended it by force.
    ///
    /// # Errors
    /// When its output was lost, or a proxy waits for it.
    pub fn wait(&self) -> Result<u8, WaitError> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut process = watched.ok_or(WaitError::Detached)?;
        match process.agent.end(process.end) {
            Ok(code) => {
                process.streams.drain().map_err(WaitError::Drain)?;
                Ok(code)
            }
            Err(error) => {
                tracing::warn!(%error, "The guest went away while a process ran in it");
                Ok(LOST_CODE)
            }
        }
    }

    /// Sends the process a signal. One that has ended is no error.
    ///
    /// # Errors
    /// When the guest cannot be reached or does not answer.
    pub fn signal(&self, signal: i32) -> Result<(), SignalError> {
        let mut agent = self.agent().map_err(SignalError::Control)?;
        let request = signal_request(&self.container, self.token, signal);
        agent.signal(&request, REQUEST_TIMEOUT).map_err(SignalError::Agent)?;
        Ok(())
    }

    /// Sets the size of the process's terminal.
    ///
    /// # Errors
    /// When the guest cannot be reached or does not answer.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), ResizeError> {
        let mut agent = self.agent().map_err(ResizeError::Control)?;
        agent.resize(self.token, rows, columns).map_err(ResizeError::Agent)
    }

    /// A connection of its own: the one of `wait` is busy.
    fn agent(&self) -> Result<Agent, ControlError> {
        control::connect_agent(&self.state_folder, REQUEST_TIMEOUT).map(Agent::new)
    }
}

/// A signal for one process.
pub(super) fn signal_request(
    container: &ContainerId,
    process: ProcessToken,
    signal: i32,
) -> SignalRequest {
    SignalRequest {
        container_id: container.to_string(),
        process: process.0,
        signal: signal.unsigned_abs(),
        all: false,
        ..Default::default()
    }
}

/// A name that no other process of the sandbox has: other execs draw theirs at the same time.
pub(super) fn random_token() -> std::io::Result<ProcessToken> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    // Even ones, so that none is the first process's.
    Ok(ProcessToken(u64::from_le_bytes(bytes) & !1))
}
