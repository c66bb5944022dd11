//! What the kernel's schedulers and allocators are told of a container's process: scheduler, I/O
//! priority, memory policy, execution domain, CPUs. The same for its first process and for one that
//! `exec` adds.

use std::io;

use oci_spec::runtime::{
    ExecCPUAffinity, IOPriorityClass, Linux, LinuxIOPriority, LinuxMemoryPolicy,
    LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType,
    MemoryPolicyModeType, Process, Scheduler,
};
use serde::{Deserialize, Serialize};

use super::sys::{self, SchedulerAttributes};
use crate::spec::memory_policy::{MAX_NODES, numbers};

/// More CPUs than any Linux is built for: the kernel takes the part that it has.
const MAX_CPUS: usize = 8192;

/// All of it, in the kernel's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SchedulingPlan {
    scheduler: Option<SchedulerAttributes>,
    io_priority: Option<i32>,
    memory: Option<MemoryPolicy>,
    personality: Option<u64>,
    /// Whether `linux.resources.cpu.cpus` narrows what the process may run on.
    has_cpus: bool,
    /// For `exec`: before the container's groups are entered, and after.
    pub(super) affinity: Affinity,
}

/// `process.execCPUAffinity`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Affinity {
    pub(super) before: Option<Vec<usize>>,
    pub(super) after: Option<Vec<usize>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MemoryPolicy {
    mode: i32,
    nodes: Vec<usize>,
}

/// Why a process does not run as it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchedulingError {
    /// The scheduler was refused. The words are runc's.
    #[error("process scheduler can't be used together with AllowedCPUs")]
    SchedulerAndCpus(#[source] io::Error),
    /// Something was refused.
    #[error("Cannot set {what}")]
    Refused { what: &'static str, source: io::Error },
}

impl SchedulingPlan {
    /// What the spec says of a process in a container.
    pub(super) fn from_spec(process: &Process, linux: Option<&Linux>) -> Self {
        let cpus = linux.and_then(|l| l.resources().as_ref()?.cpu().as_ref()?.cpus().as_ref());
        Self {
            scheduler: process.scheduler().as_ref().map(scheduler),
            io_priority: process.io_priority().as_ref().map(io_priority),
            memory: linux.and_then(|l| l.memory_policy().as_ref()).map(memory_policy),
            personality: linux.and_then(|l| l.personality().as_ref()).map(|p| match p.domain() {
                LinuxPersonalityDomain::PerLinux => sys::PER_LINUX,
                LinuxPersonalityDomain::PerLinux32 => sys::PER_LINUX32,
            }),
            has_cpus: cpus.is_some_and(|cpus| !cpus.is_empty()),
            affinity: process.exec_cpu_affinity().as_ref().map(affinity).unwrap_or_default(),
        }
    }

    /// Sets what CRIU does not save, and what the processes that this one makes inherit.
    pub(super) fn apply_unsaved(&self) -> Result<(), SchedulingError> {
        let unsaved = Self { scheduler: None, personality: None, ..self.clone() };
        unsaved.apply()
    }

    /// Sets all of it but the CPUs for this process and those that it becomes.
    pub(super) fn apply(&self) -> Result<(), SchedulingError> {
        if let Some(priority) = self.io_priority {
            sys::set_io_priority(priority).map_err(refused("the I/O priority"))?;
        }
        if let Some(scheduler) = &self.scheduler {
            sys::set_scheduler(scheduler).map_err(|source| {
                if self.has_cpus && source.raw_os_error() == Some(libc::EPERM) {
                    SchedulingError::SchedulerAndCpus(source)
                } else {
                    SchedulingError::Refused { what: "the scheduler", source }
                }
            })?;
        }
        if let Some(memory) = &self.memory {
            sys::set_memory_policy(memory.mode, &bits(&memory.nodes, MAX_NODES))
                .map_err(refused("the memory policy"))?;
        }
        if let Some(domain) = self.personality {
            sys::set_personality(domain).map_err(refused("the personality"))?;
        }
        Ok(())
    }
}

fn refused(what: &'static str) -> impl FnOnce(io::Error) -> SchedulingError {
    move |source| SchedulingError::Refused { what, source }
}

/// Lets this process run on these CPUs.
pub(super) fn run_on(cpus: &[usize]) -> io::Result<()> {
    sys::set_affinity(&bits(cpus, MAX_CPUS))
}

/// Lets this process run on every CPU that its control groups leave it, whatever whoever called
/// the runtime was bound to.
pub(super) fn run_everywhere() {
    // Refused where there is nothing to gain: the kernel leaves what there was.
    let _ = sys::set_affinity(&[u64::MAX; MAX_CPUS / 64]);
}

fn bits(numbers: &[usize], bound: usize) -> Vec<u64> {
    let mut mask = vec![0; bound / 64];
    for number in numbers.iter().filter(|number| **number < bound) {
        mask[number / 64] |= 1 << (number % 64);
    }
    mask
}

fn affinity(said: &ExecCPUAffinity) -> Affinity {
    let list = |text: &Option<String>| {
        text.as_deref().filter(|text| !text.is_empty()).and_then(|text| numbers(text, MAX_CPUS))
    };
    Affinity { before: list(said.initial()), after: list(said.cpu_affinity_final()) }
}

fn scheduler(said: &Scheduler) -> SchedulerAttributes {
    SchedulerAttributes {
        policy: match said.policy() {
            LinuxSchedulerPolicy::SchedOther => 0,
            LinuxSchedulerPolicy::SchedFifo => 1,
            LinuxSchedulerPolicy::SchedRr => 2,
            LinuxSchedulerPolicy::SchedBatch => 3,
            LinuxSchedulerPolicy::SchedIso => 4,
            LinuxSchedulerPolicy::SchedIdle => 5,
            LinuxSchedulerPolicy::SchedDeadline => 6,
        },
        flags: said.flags().iter().flatten().map(scheduler_flag).fold(0, |all, flag| all | flag),
        nice: said.nice().unwrap_or(0),
        priority: said.priority().unwrap_or(0).cast_unsigned(),
        runtime: said.runtime().unwrap_or(0),
        deadline: said.deadline().unwrap_or(0),
        period: said.period().unwrap_or(0),
    }
}

fn scheduler_flag(flag: &LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

fn io_priority(said: &LinuxIOPriority) -> i32 {
    const CLASS_SHIFT: i32 = 13;
    let class = match said.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    (class << CLASS_SHIFT) | i32::try_from(said.priority()).unwrap_or(0)
}

fn memory_policy(said: &LinuxMemoryPolicy) -> MemoryPolicy {
    let mode = match said.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flags = said.flags().iter().flatten().map(|flag| match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    });
    MemoryPolicy {
        mode: flags.fold(mode, |all, flag| all | flag),
        nodes: numbers(said.nodes().as_deref().unwrap_or(""), MAX_NODES).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_in_the_kernels_numbers() {
        let process: Process = serde_json::from_value(serde_json::json!({
            "cwd": "/", "user": {"uid": 0, "gid": 0},
            "scheduler": {"policy": "SCHED_BATCH", "nice": 19},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
            "execCPUAffinity": {"initial": "0-1", "final": "3"},
        }))
        .unwrap();
        let plan = SchedulingPlan::from_spec(&process, None);
        assert_eq!(plan.scheduler.as_ref().map(|s| (s.policy, s.nice)), Some((3, 19)));
        assert_eq!(plan.io_priority, Some(0x4004));
        assert_eq!(plan.affinity, Affinity { before: Some(vec![0, 1]), after: Some(vec![3]) });
    }

    #[test]
    fn a_memory_policy_is_a_mode_with_flags_and_a_mask() {
        let said: LinuxMemoryPolicy = serde_json::from_value(serde_json::json!({
            "mode": "MPOL_BIND", "nodes": "0,65", "flags": ["MPOL_F_STATIC_NODES"],
        }))
        .unwrap();
        let policy = memory_policy(&said);
        assert_eq!(policy.mode, 0x8002);
        assert_eq!(bits(&policy.nodes, 128), [1, 2]);
    }
}
