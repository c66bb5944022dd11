//! `update` in namespaces: the files of the container's control groups, against what runc writes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cofferdam_e2e::{Bundle, Container, Runtime};
use serde_json::json;

/// The limits of both versions of the interface. Not `cpu.weight`: runc 1.1 makes it of the shares
/// as no runtime does any more.
const FILES: [&str; 15] = [
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "cpu.shares",
    "cpu.cfs_period_us",
    "cpu.cfs_quota_us",
    "cpu.cfs_burst_us",
    "memory.max",
    "memory.swap.max",
    "memory.low",
    "cpu.max",
    "cpu.max.burst",
    "cpu.idle",
    "cpuset.cpus",
    "pids.max",
];

/// The folders of the groups that a process is in.
fn groups(pid: i32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let folder = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let root = Path::new("/sys/fs/cgroup").join(controllers);
        Some(root.join(path))
    };
    text.lines().filter_map(folder).collect()
}

fn limits(container: &Container<'_>) -> BTreeMap<&'static str, String> {
    let folders = groups(container.pid());
    let value = |name: &&'static str| {
        let text = folders.iter().find_map(|folder| fs::read_to_string(folder.join(name)).ok())?;
        Some((*name, text.trim().to_owned()))
    };
    FILES.iter().filter_map(value).collect()
}

#[track_caller]
fn same_as_the_oracle(updates: &[&[&str]]) {
    let bundle = Bundle::busybox(&["sleep", "1000"]).edit(|config| {
        config["linux"]["resources"]["memory"] = json!({
            "limit": 33_554_432, "reservation": 25_165_824
        });
        config["linux"]["resources"]["cpu"] = json!({
            "shares": 100, "quota": 500_000, "period": 1_000_000
        });
        config["linux"]["resources"]["pids"] = json!({ "limit": 20 });
    });
    let (runc, ours) = (Runtime::runc(), Runtime::cofferdam());
    let (oracle, container) = (runc.start(&bundle), ours.start(&bundle));
    assert_eq!(limits(&container), limits(&oracle), "after create");
    for flags in updates {
        for (runtime, id) in [(&runc, &oracle.id), (&ours, &container.id)] {
            runtime.verb(&[&["update"], *flags, &[id.as_str()]].concat()).exits(0);
        }
        let found = limits(&container);
        assert!(!found.is_empty());
        assert_eq!(found, limits(&oracle), "after {flags:?}");
    }
}

/// Each step names both once there was a limit on swap: with v2, runc 1.1 leaves the other as it
/// was, so that their sum is no longer what was asked for.
#[test]
fn memory_goes_up_and_down_with_swap() {
    same_as_the_oracle(&[
        &["--memory", "64M"],
        &["--memory", "50331648", "--memory-swap", "64m"],
        &["--memory", "50331648", "--memory-swap", "96m"],
        &["--memory", "80M", "--memory-swap", "96m", "--memory-reservation", "40M"],
        &["--memory", "32M", "--memory-swap", "32M"],
        &["--memory", "32M", "--memory-swap", "-1"],
    ]);
}

/// runc 1.1 cannot with v2 once there was a limit on swap.
#[test]
fn no_limit_on_memory_is_none_on_swap() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]).edit(|config| {
        let limit = 33_554_432;
        config["linux"]["resources"]["memory"] = json!({ "limit": limit, "swap": limit });
    }));
    runtime.verb(&["update", "--memory", "-1", &container.id]).exits(0);
    let found = limits(&container);
    let none = ["max", "9223372036854771712"];
    for (name, value) in found.iter().filter(|(name, _)| name.starts_with("memory.")) {
        assert!(none.contains(&value.as_str()) || *name == "memory.low", "{name} is {value}");
    }
}

#[test]
fn processor_time_is_quota_and_period_together() {
    same_as_the_oracle(&[
        &["--cpu-quota", "600000"],
        &["--cpu-period", "900000"],
        &["--cpu-quota", "-1"],
        &["--cpu-share", "200"],
        &["--cpu-period", "100000", "--cpu-quota", "30000"],
        &["--cpu-period", "50000", "--cpu-quota", "60000", "--cpu-share", "1024"],
    ]);
}

#[test]
fn processors_and_processes() {
    let all = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    same_as_the_oracle(&[
        &["--cpuset-cpus", "0"],
        &["--pids-limit", "10"],
        &["--pids-limit", "-1"],
        &["--cpuset-cpus", all.trim(), "--pids-limit", "7"],
    ]);
}

#[test]
fn a_refusal_of_the_kernel_takes_everything_back() {
    let bundle = Bundle::busybox(&["sleep", "1000"]);
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle);
    let before = limits(&container);
    let refused = runtime.verb(&[
        "update",
        "--memory",
        "64M",
        "--cpuset-cpus",
        "7000",
        "--pids-limit",
        "9",
        &container.id,
    ]);
    refused.exits(1).complains(&["7000", "cpuset.cpus"]);
    assert_eq!(limits(&container), before);
}

#[test]
fn cache_allocation_is_refused_where_there_is_none() {
    for runtime in [Runtime::runc(), Runtime::cofferdam()] {
        let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
        runtime
            .verb(&["update", "--l3-cache-schema", "L3:0=f", &container.id])
            .exits(1)
            .complains(&["Intel RDT/CAT"]);
    }
}
