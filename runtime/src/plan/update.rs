//! Other limits for a container whose virtual machine runs: what the guest is told, and what the
//! machine cannot become.

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::cgroup::{self, CgroupError};
use super::refusal::{self, Refusal};
use crate::spec::cpu_list;

/// The period of the CPU controller where the configuration says none, in microseconds.
const DEFAULT_PERIOD_US: u64 = 100_000;

const MIB: u64 = 1 << 20;

/// A virtual machine that runs, as it was started: it has no hot-plug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningVm {
    /// Its processors.
    pub vcpus: u8,
    /// All of its memory.
    pub memory_mib: u32,
    /// What of it is for guest kernel and agent.
    pub overhead_mib: u32,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpdatePlan {
    /// Files of the container's cgroup in the guest and what is written to them.
    pub files: Vec<(String, String)>,
    /// The host's processors that the machine's threads stay on from now on; absent: as before.
    pub host_cpus: Option<Vec<u32>>,
}

/// Why a running machine cannot take limits.
#[derive(Debug, thiserror::Error)]
pub enum UpdatePlanError {
    /// What a microVM cannot serve.
    #[error("{}", refusal::list(.0))]
    Unsupported(Vec<Refusal>),
    /// More memory than there is.
    #[error(
        "linux.resources.memory.limit of {limit} bytes is more than the running microVM has room \
         for ({room_mib} MiB): its memory is set when it is created"
    )]
    Memory {
        /// What was asked for.
        limit: i64,
        /// What a container may have.
        room_mib: u64,
    },
    /// More processors than there are.
    #[error(
        "linux.resources.cpu.quota of {quota} in {period} microseconds takes more processors than \
         the {vcpus} of the running microVM: their number is set when it is created"
    )]
    Processors {
        /// What was asked for.
        quota: i64,
        /// In this time.
        period: u64,
        /// What there is.
        vcpus: u8,
    },
    /// `linux.resources.cpu.cpus`.
    #[error("linux.resources.cpu.cpus {0:?} is not a list of processors")]
    Cpus(String),
    /// The limits contradict each other.
    #[error("The resource limits cannot be kept")]
    Cgroup(#[source] CgroupError),
}

impl RunningVm {
    /// The largest limit of a container in it.
    fn room_mib(self) -> u64 {
        let left = u64::from(self.memory_mib.saturating_sub(self.overhead_mib));
        // A guest kernel describes each 4 KiB page in 64 bytes: the largest limit that is no more
        // than this with a whole 64th of it.
        (left * 64 + 63) / 65
    }
}

impl UpdatePlan {
    /// The plan for these limits.
    ///
    /// # Errors
    /// What cannot be, by its name.
    pub fn new(wanted: &LinuxResources, vm: RunningVm) -> Result<Self, UpdatePlanError> {
        let refused = refusal::unsupported_resources(wanted);
        if !refused.is_empty() {
            return Err(UpdatePlanError::Unsupported(refused));
        }
        check_memory(wanted, vm)?;
        check_processors(wanted, vm)?;
        let cpus = wanted.cpu().as_ref().and_then(|cpu| cpu.cpus().as_deref());
        let cpus = cpus.filter(|list| !list.trim().is_empty());
        Ok(Self {
            files: cgroup::files(wanted).map_err(UpdatePlanError::Cgroup)?,
            host_cpus: cpus.map(parse_cpus).transpose()?,
        })
    }
}

fn parse_cpus(list: &str) -> Result<Vec<u32>, UpdatePlanError> {
    cpu_list::parse(list).ok_or_else(|| UpdatePlanError::Cpus(list.to_owned()))
}

fn check_memory(wanted: &LinuxResources, vm: RunningVm) -> Result<(), UpdatePlanError> {
    let limit = wanted.memory().unwrap_or_default().limit().filter(|limit| *limit > 0);
    let room_mib = vm.room_mib();
    match limit {
        Some(limit) if limit.unsigned_abs().div_ceil(MIB) > room_mib => {
            Err(UpdatePlanError::Memory { limit, room_mib })
        }
        _ => Ok(()),
    }
}

fn check_processors(wanted: &LinuxResources, vm: RunningVm) -> Result<(), UpdatePlanError> {
    let Some(cpu) = wanted.cpu() else { return Ok(()) };
    let period = cpu.period().filter(|period| *period > 0).unwrap_or(DEFAULT_PERIOD_US);
    match cpu.quota().filter(|quota| *quota > 0) {
        Some(quota) if quota.unsigned_abs() > period.saturating_mul(vm.vcpus.into()) => {
            Err(UpdatePlanError::Processors { quota, period, vcpus: vm.vcpus })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: RunningVm = RunningVm { vcpus: 2, memory_mib: 178, overhead_mib: 48 };

    fn plan(resources: &str) -> Result<UpdatePlan, UpdatePlanError> {
        UpdatePlan::new(&serde_json::from_str(resources).unwrap(), VM)
    }

    #[test]
    fn limits_are_files_of_the_guest_and_processors_the_hosts() {
        let plan = plan(
            r#"{"memory":{"limit":67108864},"cpu":{"quota":150000,"cpus":"1"},"pids":{"limit":9}}"#,
        );
        insta::assert_json_snapshot!(plan.unwrap(), @r#"
        {
          "files": [
            [
              "memory.max",
              "67108864"
            ],
            [
              "cpu.max",
              "150000 100000"
            ],
            [
              "pids.max",
              "9"
            ]
          ],
          "host_cpus": [
            1
          ]
        }
        "#);
    }

    #[test]
    fn the_limit_that_the_machine_was_made_for_fits_and_no_more() {
        let limit = |mib: i64| plan(&format!(r#"{{"memory":{{"limit":{}}}}}"#, mib << 20));
        assert!(limit(128).is_ok());
        assert!(matches!(limit(129), Err(UpdatePlanError::Memory { room_mib: 128, .. })));
        assert!(plan(r#"{"memory":{"limit":-1}}"#).is_ok());
        let room = |left: u32| RunningVm { memory_mib: 48 + left, ..VM }.room_mib();
        assert_eq!([64, 65, 97, 130].map(room), [63, 64, 96, 128]);
    }

    #[test]
    fn a_quota_beyond_the_processors_is_refused() {
        let quota = |quota: i64| plan(&format!(r#"{{"cpu":{{"quota":{quota}}}}}"#));
        assert!(quota(200_000).is_ok());
        assert!(quota(-1).is_ok());
        assert!(matches!(quota(200_001), Err(UpdatePlanError::Processors { vcpus: 2, .. })));
    }

    #[test]
    fn what_a_guest_cannot_do_is_refused_by_its_path() {
        let text = plan(r#"{"blockIO":{"weight":100}}"#).unwrap_err().to_string();
        assert!(text.contains("linux.resources.blockIO.weight"), "{text}");
    }
}
