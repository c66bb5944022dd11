//! A sandbox that is a microVM: a monitor process with a guest kernel, and the agent in it.
//!
//! ```text
//!  create:  sources ─▶ plan ─▶ monitor (gated, mapped, booted) ─▶ agent makes the container
//!             │                    │                                  │
//!             └────────────────────┴── any failure: monitor killed and reaped, socket removed
//!  start, exec, kill, pause, …:  control socket ─▶ agent
//!  delete:  monitor killed (if it lives) ─▶ socket removed
//! ```
//!
//! What this is not: it decides nothing about the container ([`crate::plan`] does), and it keeps
//! no state but the files that the monitor writes into the state folder.
//!
//! Hostile: everything that the agent answers, once the workload runs. Each call has a deadline,
//! each answer a bound, and a guest that hangs is ended by killing its monitor.

mod agent;
mod checkpoint;
mod control;
mod create;
mod disks;
mod exec;
mod freeze;
mod group;
mod id_map;
mod image;
mod kvm;
mod machine;
mod monitor;
mod network;
mod opener;
mod owners;
mod pod;
mod proxy;
mod record;
mod rpc;
mod shares;
mod statistics;
mod stdio;
mod stop;
mod update;

pub use agent::AgentError;
pub use checkpoint::{CheckpointError, checkpoint};
pub use control::ControlError;
pub use create::{CreateError, create};
pub use disks::DiskError;
pub use exec::{ExecError, ExecStarted, ResizeError, SignalError, WaitError, exec};
pub use freeze::{FreezeError, pause, resume};
pub use group::GroupError;
pub use image::ImageError;
pub use kvm::KvmError;
pub use machine::MachineError;
pub use monitor::MonitorError;
pub use network::NetworkError;
pub use pod::{JoinError, LockError, POD_NOTE, PlaceError, PodError};
pub use proxy::ProxyError;
pub use rpc::CallError;
pub use shares::ShareError;
pub use statistics::{StatisticsError, Watch, watch};
pub use stdio::StdioError;
pub use stop::{DeleteError, KillError, delete, kill, kill_at_once};
pub use update::{UpdateError, update};

use std::path::PathBuf;
use std::time::Instant;

use cofferdam_protocol::monitor_metrics::MonitorMetrics;

use crate::host::process::ProcessIdentity;
use crate::sandbox::request::{ProcessRow, SandboxRef, StartFailureKind};

/// Why a container was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The monitor cannot be reached.
    #[error("The container's microVM cannot be reached")]
    Control(#[source] ControlError),
    /// The network.
    #[error("The container cannot be connected")]
    Network(#[from] NetworkError),
    /// The guest did not do it.
    #[error("The container cannot be started")]
    Agent(#[source] AgentError),
}

impl StartError {
    /// Whether the program itself was at fault.
    #[must_use]
    pub const fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::Control(_) | Self::Network(_) => None,
            Self::Agent(error) => error.start_failure(),
        }
    }
}

/// Why the processes cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessesError {
    /// The monitor cannot be reached.
    #[error("The container's microVM cannot be reached")]
    Control(#[source] ControlError),
    /// The guest did not say.
    #[error("The guest's processes cannot be listed")]
    Agent(#[source] AgentError),
}

/// Lets a created container's program run.
///
/// # Errors
/// When the guest cannot be reached or does not do it.
pub fn start(sandbox: &SandboxRef) -> Result<(), StartError> {
    follow_network(sandbox, false)?;
    watch_network(sandbox, false)?;
    let connection = control::connect_agent(&sandbox.state_folder, agent::REQUEST_TIMEOUT)
        .map_err(StartError::Control)?;
    agent::Agent::new(connection).start_container(&sandbox.id).map_err(StartError::Agent)
}

/// Gives the guest the interfaces that have come into the container's network namespace, and the
/// engine's name server there.
///
/// # Errors
/// When one cannot be given, or the machine was `restored` and must not get any.
pub fn follow_network(sandbox: &SandboxRef, restored: bool) -> Result<(), NetworkError> {
    let Some(process) = owner_of_network(sandbox)? else { return Ok(()) };
    let guest = network::Guest::of(&sandbox.state_folder, process, restored)?;
    let Some(guest) = guest else { return Ok(()) };
    guest.follow()?;
    guest.serve_names(|| sandbox.spec())
}

/// Leaves a process behind that does so again whenever something changes, for as long as the machine
/// lives.
///
/// # Errors
/// When there is no such process.
pub fn watch_network(sandbox: &SandboxRef, restored: bool) -> Result<(), NetworkError> {
    let process = owner_of_network(sandbox)?;
    process.map_or(Ok(()), |process| network::watch(sandbox, process, restored))
}

/// The monitor, unless the network of its machine is another container's to see to.
fn owner_of_network(sandbox: &SandboxRef) -> Result<Option<ProcessIdentity>, NetworkError> {
    let member = pod::Membership::find(&sandbox.state_folder).map_err(NetworkError::Record)?;
    Ok(sandbox.process.filter(|_| member.is_none()))
}

/// Whether the ports of a pod can be forwarded on this host.
///
/// # Errors
/// Why not.
pub fn forwarding_is_possible() -> std::io::Result<()> {
    network::forwarding_is_possible()
}

/// What the monitors of many sandboxes count, by their state folders and in that order. No guest is
/// asked, and no monitor is waited for beyond the deadline.
#[must_use]
pub fn metrics(
    state_folders: &[PathBuf],
    deadline: Instant,
) -> Vec<Result<MonitorMetrics, ControlError>> {
    control::ask_metrics(state_folders, deadline)
}

/// The container's processes, as the guest numbers them.
///
/// # Errors
/// When the guest cannot be reached or does not answer.
pub fn processes(sandbox: &SandboxRef) -> Result<Vec<ProcessRow>, ProcessesError> {
    let connection = control::connect_agent(&sandbox.state_folder, agent::REQUEST_TIMEOUT)
        .map_err(ProcessesError::Control)?;
    agent::Agent::new(connection).processes(&sandbox.id).map_err(ProcessesError::Agent)
}
