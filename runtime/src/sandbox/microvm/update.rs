//! `update`: other limits for a container whose virtual machine runs. They hold in the guest; the
//! processors and disks are the host's: the machine's threads are moved, and its group is limited.

use std::fs;
use std::io;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;

use super::agent::{self, Agent, AgentError};
use super::control::{self, ControlError};
use super::group::GroupError;
use super::machine::{self, MachineError};
use super::pod::{Changing, Membership, PodError};
use super::record::Record;
use crate::cgroup::usage::{self, BelowUsage};
use crate::plan::pod::PodTooLarge;
use crate::plan::{UpdatePlan, UpdatePlanError, host_limits};
use crate::sandbox::request::{SandboxRef, UpdateRequest};

/// Why the limits are as they were.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// `create` did not finish, or the state folder was changed.
    #[error("The record of the microVM cannot be read or written")]
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
    /// The machine.
    #[error("The microVM cannot have the size that the limits take")]
    Resize(#[from] MachineError),
    /// The pod.
    #[error("The pod's limits cannot be changed")]
    Pod(#[from] PodError),
    /// The pod's machine.
    #[error(transparent)]
    PodTooLarge(#[from] PodTooLarge),
    /// The host's processors of a machine that is not the container's alone.
    #[error("{0} is not possible for a container of a pod: its machine is the whole pod's")]
    Placed(&'static str),
    /// Less memory than the workload uses, where that was not to be.
    #[error(transparent)]
    BelowUsage(#[from] BelowUsage),
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
    if let Some(pod) = Membership::find(&sandbox.state_folder).map_err(UpdateError::Record)? {
        return update_member(sandbox, &pod, request);
    }
    let mut record = Record::load(&sandbox.state_folder).map_err(UpdateError::Record)?;
    let plan = UpdatePlan::new(&request.change.written, record.vm)?;
    check_usage(sandbox, &request.change.written)?;
    let before = record.vm.size;
    let folder = &sandbox.state_folder;
    machine::resize(folder, &mut record, before.larger_of(plan.size))?;
    if let Err(error) = set_limits(sandbox, &record, &plan, request) {
        // The error that matters is the first.
        let _ = machine::resize(folder, &mut record, before);
        return Err(error);
    }
    Ok(machine::resize(folder, &mut record, plan.size)?)
}

/// The machine is the whole pod's: it gets as large as all its containers' limits are together.
fn update_member(
    sandbox: &SandboxRef,
    pod: &Membership,
    request: &UpdateRequest,
) -> Result<(), UpdateError> {
    let written = &request.change.written;
    let changing = Changing::begin(&sandbox.id, pod, written)?;
    let folder = changing.sandbox().to_owned();
    let mut record = Record::load(&folder).map_err(UpdateError::Record)?;
    let plan = UpdatePlan::new(written, record.vm)?;
    if plan.host_cpus.is_some() {
        return Err(UpdateError::Placed("linux.resources.cpu.cpus"));
    }
    if let Some(field) = host_limits::disk_field(written) {
        return Err(UpdateError::Placed(field));
    }
    check_usage(sandbox, written)?;
    let (before, after) = (record.vm.size, changing.needed(&record.vm)?);
    machine::resize(&folder, &mut record, before.larger_of(after))?;
    if !plan.files.is_empty()
        && let Err(error) = update_guest(sandbox, &plan)
    {
        // The error that matters is the first.
        let _ = machine::resize(&folder, &mut record, before);
        return Err(error);
    }
    changing.finish().map_err(UpdateError::Record)?;
    Ok(machine::resize(&folder, &mut record, after)?)
}

/// Where it is asked for: a limit below what is used would kill.
fn check_usage(sandbox: &SandboxRef, wanted: &LinuxResources) -> Result<(), UpdateError> {
    const USAGE: &str = "memory.current";
    if !usage::is_to_be_checked(wanted) {
        return Ok(());
    }
    let connection = control::connect_agent(&sandbox.state_folder, agent::REQUEST_TIMEOUT)
        .map_err(UpdateError::Control)?;
    let files = Agent::new(connection).read_cgroup(&sandbox.id, &[USAGE]);
    let files = files.map_err(UpdateError::Agent)?;
    match files.get(USAGE).and_then(|text| text.trim().parse().ok()) {
        Some(used) => Ok(usage::check(wanted, used)?),
        None => Ok(()),
    }
}

fn set_limits(
    sandbox: &SandboxRef,
    record: &Record,
    plan: &UpdatePlan,
    request: &UpdateRequest,
) -> Result<(), UpdateError> {
    record.group().limit_disks(&request.change.written)?;
    if let Some(cpus) = &plan.host_cpus {
        move_threads(sandbox, cpus).map_err(UpdateError::Processors)?;
    }
    if !plan.files.is_empty() {
        update_guest(sandbox, plan)?;
    }
    Ok(record.group().limit_processors(&request.change.written)?)
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
