//! Other limits for a container whose virtual machine runs: what the guest is told, and what the
//! machine cannot become.

use oci_spec::runtime::LinuxResources;
use serde::Serialize;

use super::cgroup::{self, CgroupError};
use super::growth::{MOST_GROWTH, MachineSize, RunningVm};
use super::refusal::{self, Refusal};
use crate::spec::cpu_list;

/// The period of the CPU controller where the configuration says none, in microseconds.
const DEFAULT_PERIOD_US: u64 = 100_000;

const MIB: u64 = 1 << 20;

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpdatePlan {
    /// Files of the container's cgroup in the guest and what is written to them.
    pub files: Vec<(String, String)>,
    /// The host's processors that the machine's threads stay on from now on; absent: as before.
    pub host_cpus: Option<Vec<u32>>,
    /// How large the machine has to be.
    pub size: MachineSize,
}

/// Why a running machine cannot take limits.
#[derive(Debug, thiserror::Error)]
pub enum UpdatePlanError {
    /// What a microVM cannot serve.
    #[error("{}", refusal::list(.0))]
    Unsupported(Vec<Refusal>),
    /// More memory than there is.
    #[error(
        "linux.resources.memory.limit of {limit} bytes is more than the running microVM can have \
         room for ({room_mib} MiB): it grows to {MOST_GROWTH} times the memory that it began with, \
         no further than to that of the host, and not at all once restored. Create the container \
         anew with a larger limit, or with a larger microvm.memory_overhead_mib in config.toml"
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
         the {vcpus} that the running microVM can have (microvm.max_vcpus in config.toml)"
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
        let size = MachineSize {
            memory_blocks: memory_blocks(wanted, &vm)?,
            vcpus: processors(wanted, &vm)?,
        };
        let cpus = wanted.cpu().as_ref().and_then(|cpu| cpu.cpus().as_deref());
        let cpus = cpus.filter(|list| !list.trim().is_empty());
        Ok(Self {
            files: cgroup::files(wanted).map_err(UpdatePlanError::Cgroup)?,
            host_cpus: cpus.map(parse_cpus).transpose()?,
            size,
        })
    }
}

fn parse_cpus(list: &str) -> Result<Vec<u32>, UpdatePlanError> {
    cpu_list::parse(list).ok_or_else(|| UpdatePlanError::Cpus(list.to_owned()))
}

/// As many as the limit takes; without one the machine stays as it is.
fn memory_blocks(wanted: &LinuxResources, vm: &RunningVm) -> Result<u32, UpdatePlanError> {
    let limit = wanted.memory().unwrap_or_default().limit().filter(|limit| *limit > 0);
    let Some(limit) = limit else { return Ok(vm.size.memory_blocks) };
    let blocks = vm.blocks_for(limit.unsigned_abs().div_ceil(MIB));
    blocks.ok_or(UpdatePlanError::Memory { limit, room_mib: vm.room_mib() })
}

/// As many as the quota can keep busy, and at least those that the machine began with.
fn processors(wanted: &LinuxResources, vm: &RunningVm) -> Result<u8, UpdatePlanError> {
    let Some(cpu) = wanted.cpu() else { return Ok(vm.size.vcpus) };
    let period = cpu.period().filter(|period| *period > 0).unwrap_or(DEFAULT_PERIOD_US);
    let Some(quota) = cpu.quota().filter(|quota| *quota > 0) else { return Ok(vm.size.vcpus) };
    match u8::try_from(quota.unsigned_abs().div_ceil(period)) {
        Ok(vcpus) if vcpus <= vm.vcpus_max => Ok(vcpus.max(vm.vcpus)),
        _ => Err(UpdatePlanError::Processors { quota, period, vcpus: vm.vcpus_max }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: RunningVm = RunningVm {
        vcpus: 2,
        vcpus_max: 3,
        memory_mib: 178,
        memory_blocks_max: 1,
        overhead_mib: 48,
        size: MachineSize { memory_blocks: 0, vcpus: 2 },
    };

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
          ],
          "size": {
            "memory_blocks": 0,
            "vcpus": 2
          }
        }
        "#);
    }

    #[test]
    fn a_larger_limit_makes_the_machine_larger_and_the_largest_is_refused() {
        let blocks = |mib: i64| {
            plan(&format!(r#"{{"memory":{{"limit":{}}}}}"#, mib << 20))
                .map(|p| p.size.memory_blocks)
        };
        assert_eq!((blocks(128).unwrap(), blocks(129).unwrap()), (0, 1));
        assert!(matches!(blocks(256), Err(UpdatePlanError::Memory { room_mib: 255, .. })));
        assert!(plan(r#"{"memory":{"limit":-1}}"#).is_ok());
    }

    #[test]
    fn a_larger_quota_takes_more_processors_and_a_smaller_one_those_of_the_beginning() {
        let vcpus = |quota: i64| {
            plan(&format!(r#"{{"cpu":{{"quota":{quota}}}}}"#)).map(|plan| plan.size.vcpus)
        };
        assert_eq!([10_000, 200_000, 200_001, -1].map(|q| vcpus(q).unwrap()), [2, 2, 3, 2]);
        assert!(matches!(vcpus(300_001), Err(UpdatePlanError::Processors { vcpus: 3, .. })));
    }

    #[test]
    fn what_a_guest_cannot_do_is_refused_by_its_path() {
        let text = plan(r#"{"network":{"classID":1}}"#).unwrap_err().to_string();
        assert!(text.contains("linux.resources.network"), "{text}");
    }

    #[test]
    fn limits_on_the_hosts_disks_are_no_files_of_the_guest() {
        let plan = plan(r#"{"blockIO":{"weight":100},"unified":{"io.max":"8:0 rbps=1"}}"#);
        assert_eq!(plan.unwrap().files, []);
    }
}
