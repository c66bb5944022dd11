//! `update`: other limits for a container whose virtual machine runs. They hold in the guest; the
//! processors are the host's, and the machine's threads are moved.

use std::fs;
use std::io;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::agent::{self, Agent, AgentError};
use super::control::{self, ControlError};
use super::group::{self, GroupError};
use super::record::Record;
use crate::plan::{UpdatePlan, UpdatePlanError};
use crate::sandbox::request::{SandboxRef, UpdateRequest};

/// Why the limits are as they were.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// `create` did not finish, or the state folder was changed.
    #[error("The record of the microVM cannot be read")]
    Record(#[source] io::Error),
    /// What cannot be.
    #[error("The limits cannot be those of a microVM")]
    Plan(#[from] UpdatePlanError),
    /// Intel RDT.
    #[error("Intel RDT is not possible in a microVM: --l3-cache-schema and --mem-bw-schema")]
    CacheAllocation,
    /// The monitor cannot be reached.
    #[error("The container's microVM cannot be reached")]
    Control(#[source] ControlError),
    /// The guest did not do it.
    #[error("The container's limits cannot be set")]
    Agent(#[source] AgentError),
    /// The sandbox's control group.
    #[error("The microVM cannot be limited on the host")]
    Group(#[from] GroupError),
    /// The host's processors.
    #[error("The microVM cannot be moved to other processors")]
    Processors(#[source] io::Error),
}

/// Changes the limits of a container.
///
/// # Errors
/// What the guest refused is as it was there. What is wrong by itself is found before anything is
/// changed.
pub fn update(sandbox: &SandboxRef, request: &UpdateRequest) -> Result<(), UpdateError> {
    let said = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if said(&request.l3_cache_schema) || said(&request.memory_bandwidth_schema) {
        return Err(UpdateError::CacheAllocation);
    }
    let record = Record::load(&sandbox.state_folder).map_err(UpdateError::Record)?;
    let plan = UpdatePlan::new(&request.change.written, record.vm)?;
    if let Some(cpus) = &plan.host_cpus {
        move_threads(sandbox, cpus).map_err(UpdateError::Processors)?;
    }
    if !plan.files.is_empty() {
        update_guest(sandbox, &plan)?;
    }
    Ok(group::limit_processors(&record.cgroups, &request.change.written)?)
}

fn update_guest(sandbox: &SandboxRef, plan: &UpdatePlan) -> Result<(), UpdateError> {
    let connection = control::connect_agent(&sandbox.state_folder, agent::REQUEST_TIMEOUT)
        .map_err(UpdateError::Control)?;
    Agent::new(connection).update(&sandbox.id, &plan.files).map_err(UpdateError::Agent)
}

/// Keeps every thread of the monitor on these processors.
fn move_threads(sandbox: &SandboxRef, cpus: &[u32]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu as usize)?;
    }
    let process = sandbox.process.filter(|process| process.is_alive());
    let pid = process.ok_or(io::ErrorKind::NotFound)?.pid;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = thread?.file_name();
        if let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) {
            match sched_setaffinity(Pid::from_raw(thread), &set) {
                // It ended meanwhile.
                Err(nix::Error::ESRCH) => {}
                other => other?,
            }
        }
    }
    Ok(())
}
