//! `kill` and `delete`: the end of a sandbox, whatever its guest does.
//!
//! A guest that does not answer cannot hold anybody up: SIGKILL then ends its monitor, by the
//! monitor's pidfd, and a deleted sandbox's monitor is ended in any case.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use cofferdam_protocol::agent::SignalRequest;
use nix::libc;
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use super::agent::{Agent, AgentError, REQUEST_TIMEOUT};
use super::control::{self, ControlError};
use super::group;
use super::network::{self, NetworkError, Remains};
use super::pod::{self, Membership, PodError};
use super::record::Record;
use crate::host::process::{self, ProcessIdentity};
use crate::sandbox::request::{KillRequest, SandboxRef};

/// How long a guest has to take a SIGKILL before its monitor gets it.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a killed monitor may take to go: it has memory to give back.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a signal was not sent.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// The monitor cannot be reached.
    #[error("The container's microVM cannot be reached")]
    Control(#[source] ControlError),
    /// The state folder was changed, or cannot be read now.
    #[error("The record of the container cannot be read")]
    Record(#[source] io::Error),
    /// The guest did not take it.
    #[error("The guest did not take the signal")]
    Agent(#[source] AgentError),
    /// The monitor cannot be killed.
    #[error("The guest does not answer, and its monitor cannot be killed")]
    Monitor(#[source] io::Error),
}

/// Why something of a sandbox is left.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The state folder was changed, or cannot be read now.
    #[error("The record of the microVM cannot be read")]
    Record(#[source] io::Error),
    /// The monitor cannot be killed.
    #[error("The monitor (process {pid}) cannot be killed")]
    Kill {
        /// Its number.
        pid: i32,
        /// Why not.
        source: io::Error,
    },
    /// It does not end.
    #[error("The monitor (process {0}) was killed and does not end")]
    Alive(i32),
    /// The pod.
    #[error("The container cannot leave its pod")]
    Pod(#[from] PodError),
    /// The network.
    #[error("The microVM's part of the container's network namespace cannot be removed")]
    Network(#[from] NetworkError),
    /// The sandbox's control group.
    #[error("The control group of the microVM cannot be removed")]
    Group(#[source] io::Error),
    /// The socket.
    #[error("The control socket cannot be removed")]
    Socket(#[source] io::Error),
}

/// Sends a signal to the container. One that has ended is no error.
///
/// # Errors
/// When the guest cannot be reached or does not take it. SIGKILL has what it wants in the end.
pub fn kill(sandbox: &SandboxRef, request: KillRequest) -> Result<(), KillError> {
    let monitor = live_monitor(sandbox).map_err(KillError::Monitor)?;
    let Some(monitor) = monitor else { return Ok(()) };
    let is_kill = request.signal == libc::SIGKILL;
    let timeout = if is_kill { KILL_TIMEOUT } else { REQUEST_TIMEOUT };
    match ask_guest(sandbox, request, timeout) {
        Ok(()) => Ok(()),
        // It may have ended between; then it has what was wanted.
        Err(_) if !is_alive(sandbox) => Ok(()),
        Err(_) if is_kill => {
            pidfd_send_signal(&monitor, Signal::KILL).or_else(gone).map_err(KillError::Monitor)
        }
        Err(error) => Err(error),
    }
}

/// Kills the monitor without asking its guest, and does not wait. One that has ended is no error.
///
/// # Errors
/// When it cannot be killed.
pub fn kill_at_once(sandbox: &SandboxRef) -> Result<(), KillError> {
    let monitor = live_monitor(sandbox).map_err(KillError::Monitor)?;
    let Some(monitor) = monitor else { return Ok(()) };
    pidfd_send_signal(&monitor, Signal::KILL).or_else(gone).map_err(KillError::Monitor)
}

/// Ends whatever is left of a sandbox, and removes its socket. Idempotent.
///
/// # Errors
/// When something is left.
pub fn delete(sandbox: &SandboxRef) -> Result<(), DeleteError> {
    if let Some(pod) = Membership::find(&sandbox.state_folder).map_err(DeleteError::Record)? {
        sandbox.process.map_or(Ok(()), end)?;
        return Ok(pod::leave(sandbox, &pod)?);
    }
    // While the monitor keeps it.
    let namespace = network::of_live(sandbox.process);
    if let Some(process) = sandbox.process {
        end(process)?;
    }
    // What refuses there keeps nothing else.
    let network = network::wait_for_end(&sandbox.state_folder)
        .and_then(|()| Remains::find(&sandbox.state_folder, namespace, || sandbox.spec().ok()))
        .and_then(|remains| remains.map_or(Ok(()), Remains::remove));
    // Without a record `create` did not get as far as making a group.
    if let Some(record) = Record::find(&sandbox.state_folder).map_err(DeleteError::Record)? {
        group::remove(record.group()).map_err(DeleteError::Group)?;
    }
    control::remove(&sandbox.state_folder.join(control::SOCKET)).map_err(DeleteError::Socket)?;
    Ok(network?)
}

/// Kills a monitor that lives, and waits for its end.
fn end(process: ProcessIdentity) -> Result<(), DeleteError> {
    let pid = process.pid;
    let failed = |source| DeleteError::Kill { pid, source };
    let Some(monitor) = process.open().map_err(failed)? else { return Ok(()) };
    pidfd_send_signal(&monitor, Signal::KILL).or_else(gone).map_err(failed)?;
    if ends_within(&monitor, END_TIMEOUT) { Ok(()) } else { Err(DeleteError::Alive(pid)) }
}

fn ask_guest(
    sandbox: &SandboxRef,
    request: KillRequest,
    timeout: Duration,
) -> Result<(), KillError> {
    let first = Membership::first_process(&sandbox.state_folder).map_err(KillError::Record)?;
    let connection =
        control::connect_agent(&sandbox.state_folder, timeout).map_err(KillError::Control)?;
    let request = SignalRequest {
        container_id: sandbox.id.to_string(),
        process: first.0,
        signal: request.signal.unsigned_abs(),
        all: request.all,
        ..Default::default()
    };
    Agent::new(connection).signal(&request, timeout).map_err(KillError::Agent)?;
    Ok(())
}

/// The monitor's descriptor, if it lives.
fn live_monitor(sandbox: &SandboxRef) -> io::Result<Option<OwnedFd>> {
    sandbox.process.map_or(Ok(None), ProcessIdentity::open)
}

fn is_alive(sandbox: &SandboxRef) -> bool {
    sandbox.process.is_some_and(ProcessIdentity::is_alive)
}

fn gone(errno: Errno) -> io::Result<()> {
    if errno == Errno::SRCH { Ok(()) } else { Err(errno.into()) }
}

fn ends_within(process: &OwnedFd, timeout: Duration) -> bool {
    process::ends_within(process.as_fd(), timeout).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn sandbox(state_folder: &Path, process: Option<ProcessIdentity>) -> SandboxRef {
        SandboxRef {
            id: "a".parse().unwrap(),
            state_folder: state_folder.to_owned(),
            bundle: "/".into(),
            process,
        }
    }

    #[test]
    fn a_sandbox_that_is_gone_is_killed_and_deleted_without_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for process in [None, Some(ProcessIdentity { pid: i32::MAX, start_ticks: 1 })] {
            let sandbox = sandbox(folder.path(), process);
            kill(&sandbox, KillRequest { signal: 15, all: false }).unwrap();
            delete(&sandbox).unwrap();
            delete(&sandbox).unwrap();
        }
    }

    #[test]
    fn a_monitor_that_does_not_answer_is_killed_and_one_that_lives_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let start = || {
            let child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            let identity = ProcessIdentity::of(child.id().cast_signed()).unwrap();
            (child, sandbox(folder.path(), Some(identity)))
        };
        let (mut child, hung) = start();
        let term = kill(&hung, KillRequest { signal: 15, all: false });
        assert!(matches!(term, Err(KillError::Control(_))));
        kill(&hung, KillRequest { signal: libc::SIGKILL, all: false }).unwrap();
        assert!(!child.wait().unwrap().success());
        let (mut child, left) = start();
        delete(&left).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
