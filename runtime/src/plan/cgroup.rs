//! The spec's resource limits, which speak of the first cgroup version, as files of the second.
//!
//! Limits hold in the guest, on the container's own group there. What they mean for the host (the
//! processors' numbers, the disks) is no business of the guest's: see [`super::VmShape`] and
//! [`super::host_limits`].

use std::collections::BTreeMap;

use cofferdam_protocol::plan::CgroupPlan;
use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use super::device_rules::{self, DeviceRuleError};
use super::host_limits::DISKS_IN_UNIFIED;
use crate::cgroup::limits::weight_of_shares;

/// The period of the CPU controller where the configuration says none, in microseconds.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// Why the limits cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Less memory and swap than memory.
    #[error("linux.resources.memory.swap {swap} is below memory.limit {limit}")]
    SwapBelowLimit {
        /// Memory and swap.
        swap: i64,
        /// Memory.
        limit: i64,
    },
    /// Swap is counted on top of memory.
    #[error("linux.resources.memory.swap {0} needs a memory.limit")]
    SwapWithoutLimit(i64),
    /// A key of `unified` that leaves the group.
    #[error("linux.resources.unified: {0:?} is not a file of a cgroup")]
    UnifiedKey(String),
    /// A rule for devices.
    #[error("The device rules cannot be kept")]
    Devices(#[source] DeviceRuleError),
}

/// The container's group.
pub(super) fn plan(resources: Option<&LinuxResources>) -> Result<CgroupPlan, CgroupError> {
    let files = resources.map(files).transpose()?.unwrap_or_default();
    // Those that it has are known when it runs: `super::disks`.
    let device_program = device_rules::program(resources, &[]).map_err(CgroupError::Devices)?;
    Ok(CgroupPlan { files, device_program })
}

/// The group's files, and what is written to them in this order.
pub(super) fn files(resources: &LinuxResources) -> Result<Files, CgroupError> {
    let mut files = Vec::new();
    if let Some(memory) = resources.memory() {
        push_memory(&mut files, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        push_cpu(&mut files, cpu);
    }
    if let Some(pids) = resources.pids().filter(|pids| pids.limit() != 0) {
        push(&mut files, "pids.max", number_or_max(pids.limit()));
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        push_huge_pages(&mut files, limit);
    }
    push_unified(&mut files, resources)?;
    Ok(files)
}

type Files = Vec<(String, String)>;

fn push(files: &mut Files, name: &str, value: impl ToString) {
    files.push((name.to_owned(), value.to_string()));
}

fn number_or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// A guest has no swap, so that whatever limit there is on swap and on swappiness is kept; what
/// cannot be meant is refused all the same. It has no kernel-memory limits of its own either:
/// version 2 counts the kernel's memory as memory.
fn push_memory(files: &mut Files, memory: &LinuxMemory) -> Result<(), CgroupError> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    match (memory.swap(), limit) {
        (Some(swap), Some(limit)) if swap > 0 && limit > 0 && swap < limit => {
            return Err(CgroupError::SwapBelowLimit { swap, limit });
        }
        (Some(swap), None) if swap > 0 => return Err(CgroupError::SwapWithoutLimit(swap)),
        _ => {}
    }
    if let Some(limit) = limit {
        push(files, "memory.max", number_or_max(limit));
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        push(files, "memory.low", number_or_max(reservation));
    }
    Ok(())
}

fn push_cpu(files: &mut Files, cpu: &LinuxCpu) {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        push(files, "cpu.weight", weight_of_shares(shares));
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = quota.filter(|quota| *quota > 0);
        let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        let period = period.unwrap_or(DEFAULT_PERIOD_US);
        push(files, "cpu.max", format!("{quota} {period}"));
    }
    if let Some(burst) = cpu.burst().filter(|burst| *burst != 0) {
        push(files, "cpu.max.burst", burst);
    }
    if let Some(idle) = cpu.idle().filter(|idle| *idle != 0) {
        push(files, "cpu.idle", idle);
    }
}

/// What is taken, and what is set aside by a mapping that has not touched it yet.
fn push_huge_pages(files: &mut Files, limit: &LinuxHugepageLimit) {
    let size = limit.page_size();
    push(files, &format!("hugetlb.{size}.max"), number_or_max(limit.limit()));
    push(files, &format!("hugetlb.{size}.rsvd.max"), number_or_max(limit.limit()));
}

fn push_unified(files: &mut Files, resources: &LinuxResources) -> Result<(), CgroupError> {
    let unified: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    for (key, value) in unified {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !key.contains('.') || key.starts_with('.') || !key.bytes().all(plain) {
            return Err(CgroupError::UnifiedKey(key.clone()));
        }
        if !key.starts_with(DISKS_IN_UNIFIED) {
            push(files, key, value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(resources: &str) -> Result<Files, CgroupError> {
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        plan(Some(&resources)).map(|plan| plan.files)
    }

    fn file(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn limits_of_version_one_become_files_of_version_two() {
        let resources = r#"{
            "memory": {"limit": 536870912, "reservation": 1048576, "swap": 1073741824},
            "cpu": {"shares": 1024, "quota": 50000, "period": 100000},
            "pids": {"limit": 100},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
            "unified": {"memory.high": "400000000", "io.max": "8:0 rbps=1"}}"#;
        assert_eq!(
            files(resources).unwrap(),
            [
                file("memory.max", "536870912"),
                file("memory.low", "1048576"),
                file("cpu.weight", "100"),
                file("cpu.max", "50000 100000"),
                file("pids.max", "100"),
                file("hugetlb.2MB.max", "4194304"),
                file("hugetlb.2MB.rsvd.max", "4194304"),
                file("memory.high", "400000000"),
            ]
        );
    }

    #[test]
    fn no_limit_is_no_file_and_minus_one_is_max() {
        let none = r#"{"memory":{"limit":0},"cpu":{"shares":0,"quota":0},"pids":{"limit":0}}"#;
        assert_eq!(files(none).unwrap(), []);
        let unlimited =
            r#"{"memory":{"limit":-1,"swap":-1},"cpu":{"quota":-1},"pids":{"limit":-1}}"#;
        assert_eq!(
            files(unlimited).unwrap(),
            [file("memory.max", "max"), file("cpu.max", "max 100000"), file("pids.max", "max")]
        );
    }

    #[test]
    fn swap_that_cannot_be_meant_is_refused() {
        let below = files(r#"{"memory":{"limit":2000,"swap":1000}}"#);
        assert!(matches!(below, Err(CgroupError::SwapBelowLimit { swap: 1000, limit: 2000 })));
        let alone = files(r#"{"memory":{"swap":1000}}"#);
        assert!(matches!(alone, Err(CgroupError::SwapWithoutLimit(1000))));
    }

    #[test]
    fn a_unified_key_stays_in_the_group() {
        for key in ["../x.y", "a/b.c", "x", ".y", ""] {
            let text = format!(r#"{{"unified":{{"{key}":"1"}}}}"#);
            assert!(matches!(files(&text), Err(CgroupError::UnifiedKey(_))), "{key}");
        }
    }
}
