//! The size of a virtual machine that runs: how far it may grow on this host, and its way from one
//! size to another.
//!
//! ```text
//!  grow:    host's limit up ─▶ monitor adds memory ─▶ guest takes it into use ─▶ container's limits
//!              └──────────────────┴── refused: shrunk to what it was
//!  shrink:  container's limits ─▶ guest gives back ─▶ monitor takes it away ─▶ host's limit down
//! ```
//!
//! Hostile: what the guest says it has. It decides only how much of its own is taken away.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use cofferdam_protocol::bounds::MAX_MEMORY_MIB;

use super::agent::{self, Agent, AgentError};
use super::control::{self, ControlError};
use super::group::GroupError;
use super::record::Record;
use crate::config::MicroVmConfig;
use crate::plan::{MachineSize, RunningVm, VmDefaults};

/// With this policy the kernel counts all that is mapped, touched or not: room to grow would be
/// taken from everyone else.
const STRICT_OVERCOMMIT: &str = "2";

/// A guest keeps some hundred KiB for each processor that may come.
const MOST_BY_DEFAULT: u8 = 4;

/// Why a machine has not the size that it should.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The monitor did not do it.
    #[error("The microVM's monitor cannot resize it")]
    Control(#[source] ControlError),
    /// The guest did not answer.
    #[error("The guest cannot be resized")]
    Agent(#[source] AgentError),
    /// The guest's kernel did not do it.
    #[error(
        "The guest's kernel has {memory_blocks} blocks of memory and {vcpus} processors: {reason}"
    )]
    Guest {
        /// Blocks of memory beside that of the beginning.
        memory_blocks: u32,
        /// Processors in use.
        vcpus: u8,
        /// In the guest's words.
        reason: String,
    },
    /// A file in the state folder.
    #[error("The record of the microVM cannot be written")]
    Record(#[source] io::Error),
    /// The sandbox's control group.
    #[error("The microVM cannot be limited on the host")]
    Group(#[from] GroupError),
}

/// What the configuration and this host say of virtual machines.
pub(super) fn defaults(config: &MicroVmConfig) -> VmDefaults {
    VmDefaults {
        vcpus: config.vcpus,
        memory_mib: config.memory_mib,
        overhead_mib: config.memory_overhead_mib,
        max_vcpus: config.max_vcpus.unwrap_or_else(processors_to_grow_to),
        max_memory_mib: memory_to_grow_to(),
        announced_vcpus_max: config.max_vcpus.unwrap_or_else(processors),
        announced_memory_max_mib: memory(),
    }
}

/// Those of this host, but each costs the guest memory.
fn processors_to_grow_to() -> u8 {
    processors().min(MOST_BY_DEFAULT)
}

fn processors() -> u8 {
    let all = thread::available_parallelism().map_or(1, usize::from);
    u8::try_from(all).unwrap_or(u8::MAX)
}

/// All that this host has, in MiB; 0 where room to grow has a price.
fn memory_to_grow_to() -> u32 {
    let policy = fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    if policy.trim() == STRICT_OVERCOMMIT {
        return 0;
    }
    memory()
}

fn memory() -> u32 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    total_mib(&meminfo).min(MAX_MEMORY_MIB)
}

fn total_mib(meminfo: &str) -> u32 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.and_then(|kib| u32::try_from(kib / 1024).ok()).unwrap_or(0)
}

/// Brings a machine to a size, and its record with it.
pub(super) fn resize(
    state_folder: &Path,
    record: &mut Record,
    size: MachineSize,
) -> Result<(), MachineError> {
    let now = record.vm.size;
    if size == now {
        return Ok(());
    }
    let resized = if size.larger_of(now) == size {
        let larger = Record { vm: RunningVm { size, ..record.vm }, ..record.clone() };
        larger.save(state_folder).map_err(MachineError::Record)?;
        grow(state_folder, record, size)
    } else {
        shrink(state_folder, record, size)
    };
    record.save(state_folder).map_err(MachineError::Record)?;
    resized
}

/// Makes a machine larger. The record has the larger size from before the first step on, so that
/// nothing the guest may use is ever taken for free.
fn grow(state_folder: &Path, record: &mut Record, larger: MachineSize) -> Result<(), MachineError> {
    let before = record.vm.size;
    record.vm.size = larger;
    let grown = try_grow(state_folder, record);
    if grown.is_err() {
        // The error that matters is the first; what the guest keeps stays in the record.
        let _ = shrink(state_folder, record, before);
    }
    grown
}

fn try_grow(state_folder: &Path, record: &Record) -> Result<(), MachineError> {
    let size = record.vm.size;
    record.group().limit_memory(record.vm.memory_at(size))?;
    let has = resize_guest(state_folder, size, size)?;
    match has.failure {
        None if has.memory_blocks >= size.memory_blocks && has.vcpus >= size.vcpus => Ok(()),
        failure => Err(MachineError::Guest {
            memory_blocks: has.memory_blocks,
            vcpus: has.vcpus,
            reason: failure.unwrap_or_else(|| "it does not say why".to_owned()),
        }),
    }
}

/// Makes a machine smaller, as far as its guest gives back.
fn shrink(
    state_folder: &Path,
    record: &mut Record,
    smaller: MachineSize,
) -> Result<(), MachineError> {
    let now = record.vm.size;
    let has = resize_guest(state_folder, now, smaller)?;
    let kept = has.memory_blocks.clamp(smaller.memory_blocks, now.memory_blocks);
    set_blocks(state_folder, kept)?;
    record.vm.size = MachineSize { memory_blocks: kept, vcpus: smaller.vcpus };
    Ok(record.group().limit_memory(record.vm.memory_at(record.vm.size))?)
}

/// With the monitor's memory at one size, the guest's use of it at another.
fn resize_guest(
    state_folder: &Path,
    monitor: MachineSize,
    guest: MachineSize,
) -> Result<agent::Resized, MachineError> {
    let first_block = set_blocks(state_folder, monitor.memory_blocks)?;
    let connection = control::connect_agent(state_folder, agent::REQUEST_TIMEOUT)
        .map_err(MachineError::Control)?;
    Agent::new(connection).resize_machine(first_block, guest).map_err(MachineError::Agent)
}

fn set_blocks(state_folder: &Path, blocks: u32) -> Result<u64, MachineError> {
    control::set_memory_blocks(state_folder, blocks, agent::REQUEST_TIMEOUT)
        .map_err(MachineError::Control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_memory_is_read_from_its_own_file() {
        assert_eq!(total_mib("MemTotal:       16309880 kB\nMemFree: 1 kB\n"), 15927);
        assert_eq!(total_mib("MemFree: 1 kB\n"), 0);
    }
}
