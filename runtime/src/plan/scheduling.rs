//! When and where a process runs: `process.scheduler`, `ioPriority` and `execCPUAffinity`, in the
//! kernel's numbers.
//!
//! Processors here are the guest's: it has as many as the container's limits keep busy, from 0 on.

use cofferdam_protocol::plan::{SchedulerPlan, SchedulingPlan};
use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler,
};

use crate::spec::cpu_list;

/// Why a process cannot be scheduled as it asks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchedulingError {
    /// Not processors.
    #[error("process.execCPUAffinity.{field} {list:?} is not a list of processors")]
    Cpus {
        /// Which.
        field: &'static str,
        /// What it says.
        list: String,
    },
}

/// What holds for every process.
pub(super) fn plan(process: &Process) -> SchedulingPlan {
    SchedulingPlan {
        scheduler: process.scheduler().as_ref().map(scheduler),
        io_priority: process.io_priority().as_ref().map(io_priority),
        ..SchedulingPlan::default()
    }
}

/// What holds for those that come later.
pub(super) fn set_affinity(
    plan: &mut SchedulingPlan,
    process: &Process,
) -> Result<(), SchedulingError> {
    let Some(affinity) = process.exec_cpu_affinity() else { return Ok(()) };
    let cpus = |field, list: Option<&str>| match list {
        None | Some("") => Ok(Vec::new()),
        Some(list) => cpu_list::parse(list)
            .ok_or_else(|| SchedulingError::Cpus { field, list: list.to_owned() }),
    };
    plan.initial_cpus = cpus("initial", affinity.initial().as_deref())?;
    plan.final_cpus = cpus("final", affinity.cpu_affinity_final().as_deref())?;
    Ok(())
}

fn scheduler(scheduler: &Scheduler) -> SchedulerPlan {
    let flags = scheduler.flags().iter().flatten().map(|flag| flag_bit(*flag));
    SchedulerPlan {
        policy: policy(*scheduler.policy()),
        flags: flags.fold(0, |flags, bit| flags | bit),
        nice: scheduler.nice().unwrap_or_default(),
        priority: scheduler.priority().unwrap_or_default().max(0).unsigned_abs(),
        runtime: scheduler.runtime().unwrap_or_default(),
        deadline: scheduler.deadline().unwrap_or_default(),
        period: scheduler.period().unwrap_or_default(),
    }
}

/// `SCHED_*` of linux/sched.h.
const fn policy(policy: LinuxSchedulerPolicy) -> u32 {
    match policy {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    }
}

/// `SCHED_FLAG_*` of linux/sched.h.
const fn flag_bit(flag: LinuxSchedulerFlag) -> u64 {
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

/// `IOPRIO_PRIO_VALUE` of linux/ioprio.h. Levels are checked to be 0 to 7.
fn io_priority(priority: &LinuxIOPriority) -> u16 {
    let class: u16 = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = u16::try_from(priority.priority().clamp(0, 7)).unwrap_or_default();
    class << 13 | level
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(more: &str) -> Process {
        let text = format!(r#"{{"user":{{"uid":0,"gid":0}},"cwd":"/","args":["a"],{more}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_scheduler_has_the_kernels_numbers() {
        let plan = plan(&process(
            r#""scheduler":{"policy":"SCHED_RR","priority":7,"flags":["SCHED_FLAG_KEEP_PARAMS"]},
               "ioPriority":{"class":"IOPRIO_CLASS_IDLE","priority":5}"#,
        ));
        let expected =
            SchedulerPlan { policy: 2, flags: 0x10, priority: 7, ..SchedulerPlan::default() };
        assert_eq!(plan.scheduler, Some(expected));
        assert_eq!(plan.io_priority, Some(3 << 13 | 5));
    }

    #[test]
    fn processors_are_those_of_a_list() {
        let mut plan = SchedulingPlan::default();
        let affinity = process(r#""execCPUAffinity":{"initial":"0-1","final":"1"}"#);
        set_affinity(&mut plan, &affinity).unwrap();
        assert_eq!((plan.initial_cpus, plan.final_cpus), (vec![0, 1], vec![1]));
    }
}
