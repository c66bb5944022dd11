//! The spec's resource limits as writes to the files of a control group, for both versions.
//!
//! Pure: the order of the writes and what may refuse is decided here, by what the kernel checks.
//! It holds a group's memory limit below that of memory and swap, and a group's quota of a period
//! below its parent's, after each single write.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::writes::{OnRefusal, Write};

/// The version of the kernel's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One for all.
    V2,
}

/// What a group has now, where the order of writes depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// The memory limit.
    pub memory_limit: Option<u64>,
}

/// Why limits cannot be set, whatever the kernel says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Less memory and swap than memory. The words are runc's.
    #[error("memory+swap limit should be >= memory limit")]
    SwapBelowLimit,
    /// Swap is counted on top of memory. The words are runc's.
    #[error("unable to set swap limit without memory limit")]
    SwapWithoutLimit,
    /// The kernel would take another value in silence. The words are runc's.
    #[error("the maximum allowed cpu-shares is {MAX_SHARES}")]
    TooManyShares,
    /// Likewise.
    #[error("the minimum allowed cpu-shares is {MIN_SHARES}")]
    TooFewShares,
    /// `unified` names files of v2.
    #[error("linux.resources.unified needs cgroup v2, and this host has v1")]
    UnifiedOnV1,
    /// v2 has no weight for the processes beside a group's children.
    #[error("linux.resources.blockIO.leafWeight needs cgroup v1, and this host has v2")]
    LeafWeightOnV2,
    /// A key of `unified` that leaves the group.
    #[error("linux.resources.unified: {0:?} is not a file of a cgroup")]
    UnifiedKey(String),
}

/// The kernel's bounds of `cpu.shares`.
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
/// The period of the CPU controller where nothing else was said, in microseconds.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// The writes that set these limits, in their order. Zero is *unset*, -1 *no limit*.
///
/// # Errors
/// When the limits contradict each other or the version.
pub fn writes(
    version: Version,
    resources: &LinuxResources,
    present: Present,
) -> Result<Vec<Write>, LimitError> {
    let mut list = Vec::new();
    if let Some(memory) = resources.memory() {
        match version {
            Version::V1 => memory_v1(&mut list, memory, present),
            Version::V2 => memory_v2(&mut list, memory)?,
        }
    }
    if let Some(cpu) = resources.cpu() {
        cpuset(&mut list, cpu);
        match version {
            Version::V1 => cpu_v1(&mut list, cpu)?,
            Version::V2 => cpu_v2(&mut list, cpu),
        }
    }
    if let Some(pids) = resources.pids() {
        // systemd has no zero, and a group with a process in it is the same with one.
        let limit = if pids.limit() == 0 { 1 } else { pids.limit() };
        list.push(Write::new("pids.max", number_or_max(limit)));
    }
    if let Some(block) = resources.block_io() {
        match version {
            Version::V1 => block_v1(&mut list, block),
            Version::V2 => block_v2(&mut list, block)?,
        }
    }
    huge_pages(&mut list, version, resources);
    unified(&mut list, version, resources)?;
    Ok(list)
}

fn number_or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

const fn set(value: Option<i64>) -> Option<i64> {
    match value {
        Some(0) | None => None,
        some => some,
    }
}

const fn set_unsigned(value: Option<u64>) -> Option<u64> {
    match value {
        Some(0) | None => None,
        some => some,
    }
}

fn memory_v1(list: &mut Vec<Write>, memory: &LinuxMemory, present: Present) {
    let limit = set(memory.limit());
    // No limit on memory is none on memory and swap either, if swap is accounted for.
    let follows = limit == Some(-1) && set(memory.swap()).is_none();
    let swap = if follows { Some(-1) } else { set(memory.swap()) };
    let on_refusal = if follows { OnRefusal::IgnoreMissing } else { OnRefusal::Fail };
    let limit_write = limit.map(|limit| Write::new("memory.limit_in_bytes", limit));
    let swap_write =
        swap.map(|swap| Write::new("memory.memsw.limit_in_bytes", swap).refused(on_refusal));
    let raises = swap == Some(-1)
        || swap.zip(present.memory_limit).is_some_and(|(swap, now)| now < swap.unsigned_abs());
    if limit.is_some() && raises {
        list.extend(swap_write);
        list.extend(limit_write);
    } else {
        list.extend(limit_write);
        list.extend(swap_write);
    }
    if let Some(reservation) = set(memory.reservation()) {
        list.push(Write::new("memory.soft_limit_in_bytes", reservation));
    }
    if let Some(tcp) = set(memory.kernel_tcp()) {
        list.push(Write::new("memory.kmem.tcp.limit_in_bytes", tcp));
    }
    if let Some(swappiness) = memory.swappiness() {
        list.push(Write::new("memory.swappiness", swappiness));
    }
    if memory.disable_oom_killer().unwrap_or(false) {
        list.push(Write::new("memory.oom_control", 1));
    }
}

/// v2 limits swap alone.
fn memory_v2(list: &mut Vec<Write>, memory: &LinuxMemory) -> Result<(), LimitError> {
    let limit = set(memory.limit());
    let swap = match (set(memory.swap()), limit) {
        (None, Some(-1)) | (Some(-1), _) => Some("max".to_owned()),
        (None, _) => None,
        (Some(_), None | Some(-1)) => return Err(LimitError::SwapWithoutLimit),
        (Some(swap), Some(limit)) if swap < limit => return Err(LimitError::SwapBelowLimit),
        (Some(swap), Some(limit)) => Some((swap - limit).to_string()),
    };
    if let Some(swap) = swap {
        // A kernel without swap has no such file: then there is none, as with 0, and as much as
        // there is, as with max.
        let harmless = swap == "max" || swap == "0";
        let on_refusal = if harmless { OnRefusal::IgnoreMissing } else { OnRefusal::Fail };
        list.push(Write::new("memory.swap.max", swap).refused(on_refusal));
    }
    if let Some(limit) = limit {
        list.push(Write::new("memory.max", number_or_max(limit)));
    }
    if let Some(reservation) = set(memory.reservation()) {
        list.push(Write::new("memory.low", number_or_max(reservation)));
    }
    Ok(())
}

fn cpuset(list: &mut Vec<Write>, cpu: &LinuxCpu) {
    let named = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    list.extend(named(cpu.cpus()).map(|cpus| Write::new("cpuset.cpus", cpus)));
    list.extend(named(cpu.mems()).map(|mems| Write::new("cpuset.mems", mems)));
}

/// A period or burst may be refused for the quota that there still is: then it is tried once more
/// when the quota is written.
fn cpu_v1(list: &mut Vec<Write>, cpu: &LinuxCpu) -> Result<(), LimitError> {
    if let Some(shares) = set_unsigned(cpu.shares()) {
        match shares {
            ..MIN_SHARES => return Err(LimitError::TooFewShares),
            MIN_SHARES..=MAX_SHARES => list.push(Write::new("cpu.shares", shares)),
            _ => return Err(LimitError::TooManyShares),
        }
    }
    let quota = set(cpu.quota());
    let early = if quota.is_some() { OnRefusal::RetryLast } else { OnRefusal::Fail };
    if let Some(period) = set_unsigned(cpu.period()) {
        list.push(Write::new("cpu.cfs_period_us", period).refused(early));
    }
    if let Some(burst) = cpu.burst() {
        list.push(Write::new("cpu.cfs_burst_us", burst).refused(early));
    }
    list.extend(quota.map(|quota| Write::new("cpu.cfs_quota_us", quota)));
    list.extend(cpu.idle().map(|idle| Write::new("cpu.idle", idle)));
    let runtime = set(cpu.realtime_runtime());
    let early = if runtime.is_some() { OnRefusal::RetryLast } else { OnRefusal::Fail };
    if let Some(period) = set_unsigned(cpu.realtime_period()) {
        list.push(Write::new("cpu.rt_period_us", period).refused(early));
    }
    list.extend(runtime.map(|time| Write::new("cpu.rt_runtime_us", time)));
    Ok(())
}

fn cpu_v2(list: &mut Vec<Write>, cpu: &LinuxCpu) {
    list.extend(cpu.idle().map(|idle| Write::new("cpu.idle", idle)));
    if let Some(shares) = set_unsigned(cpu.shares()) {
        list.push(Write::new("cpu.weight", weight_of_shares(shares)));
    }
    let (quota, period) = (set(cpu.quota()), set_unsigned(cpu.period()));
    let limits = quota.is_some() || period.is_some();
    if let Some(burst) = cpu.burst() {
        let early = if limits { OnRefusal::RetryLast } else { OnRefusal::Fail };
        list.push(Write::new("cpu.max.burst", burst).refused(early));
    }
    if limits {
        let quota = number_or_max(quota.unwrap_or(-1));
        let period = period.unwrap_or(DEFAULT_PERIOD_US);
        list.push(Write::new("cpu.max", format!("{quota} {period}")));
    }
}

/// [2, 262144] to [1, 10000] on a curve that takes the default of 1024 to that of 100, as container
/// runtimes agreed (earlier they had a line, on which 1024 was 39).
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "of numbers from 1 to 262144"
)]
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        ..=MIN_SHARES => 1,
        MAX_SHARES.. => 10_000,
        _ => {
            let bits = (shares as f64).log2();
            let exponent = (bits * bits + 125.0 * bits) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

/// [10, 1000] to [1, 10000] on a line, likewise.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn throttles(block: &LinuxBlockIo) -> [(&'static str, &'static str, &[LinuxThrottleDevice]); 4] {
    [
        ("read_bps", "rbps", block.throttle_read_bps_device().as_deref().unwrap_or_default()),
        ("write_bps", "wbps", block.throttle_write_bps_device().as_deref().unwrap_or_default()),
        ("read_iops", "riops", block.throttle_read_iops_device().as_deref().unwrap_or_default()),
        ("write_iops", "wiops", block.throttle_write_iops_device().as_deref().unwrap_or_default()),
    ]
}

fn block_v1(list: &mut Vec<Write>, block: &LinuxBlockIo) {
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        list.push(Write::new("blkio.weight", weight).or("blkio.bfq.weight", weight));
    }
    if let Some(weight) = block.leaf_weight().filter(|weight| *weight != 0) {
        list.push(Write::new("blkio.leaf_weight", weight));
    }
    for device in block.weight_device().iter().flatten() {
        let (major, minor) = (device.major(), device.minor());
        if let Some(weight) = device.weight() {
            let line = format!("{major}:{minor} {weight}");
            let file = "blkio.weight_device";
            list.push(Write::new(file, &line).or("blkio.bfq.weight_device", &line));
        }
        if let Some(weight) = device.leaf_weight() {
            let line = format!("{major}:{minor} {weight}");
            list.push(Write::new("blkio.leaf_weight_device", line));
        }
    }
    for (name, _, devices) in throttles(block) {
        for device in devices {
            let line = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            list.push(Write::new(format!("blkio.throttle.{name}_device"), line));
        }
    }
}

fn block_v2(list: &mut Vec<Write>, block: &LinuxBlockIo) -> Result<(), LimitError> {
    let leaves = |weight: Option<u16>| weight.is_some_and(|weight| weight != 0);
    let mut devices = block.weight_device().iter().flatten();
    if leaves(block.leaf_weight()) || devices.any(|device| leaves(device.leaf_weight())) {
        return Err(LimitError::LeafWeightOnV2);
    }
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        list.push(Write::new("io.bfq.weight", weight).or("io.weight", io_weight(weight)));
    }
    for device in block.weight_device().iter().flatten() {
        let (major, minor) = (device.major(), device.minor());
        if let Some(weight) = device.weight() {
            let line = format!("{major}:{minor} {weight}");
            let converted = format!("{major}:{minor} {}", io_weight(weight));
            list.push(Write::new("io.bfq.weight", line).or("io.weight", converted));
        }
    }
    for (_, key, devices) in throttles(block) {
        for device in devices {
            let (major, minor) = (device.major(), device.minor());
            let rate = match device.rate() {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            list.push(Write::new("io.max", format!("{major}:{minor} {key}={rate}")));
        }
    }
    Ok(())
}

fn huge_pages(list: &mut Vec<Write>, version: Version, resources: &LinuxResources) {
    let file = if version == Version::V1 { "limit_in_bytes" } else { "max" };
    for limit in resources.hugepage_limits().iter().flatten() {
        let name = format!("hugetlb.{}.{file}", limit.page_size());
        list.push(Write::new(name, limit.limit()));
    }
}

fn unified(
    list: &mut Vec<Write>,
    version: Version,
    resources: &LinuxResources,
) -> Result<(), LimitError> {
    let mut entries: Vec<_> = resources.unified().iter().flatten().collect();
    entries.sort();
    if version == Version::V1 && !entries.is_empty() {
        return Err(LimitError::UnifiedOnV1);
    }
    for (key, value) in entries {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !key.contains('.') || key.starts_with('.') || !key.bytes().all(plain) {
            return Err(LimitError::UnifiedKey(key.clone()));
        }
        // Such a file takes one device in a write.
        list.extend(value.lines().map(|line| Write::new(key, line)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(
        version: Version,
        resources: &str,
        now: Option<u64>,
    ) -> Result<Vec<String>, LimitError> {
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let list = writes(version, &resources, Present { memory_limit: now })?;
        Ok(list.iter().map(ToString::to_string).collect())
    }

    const MEMORY: &str = r#"{"memory":{"limit":1000,"swap":2000,"reservation":500}}"#;

    #[test]
    fn with_v1_the_limit_is_below_that_with_swap_after_each_write() {
        let up = lines(Version::V1, MEMORY, Some(100)).unwrap();
        assert_eq!(up[0], "memory.memsw.limit_in_bytes = 2000");
        assert_eq!(up[1], "memory.limit_in_bytes = 1000");
        assert_eq!(up[2], "memory.soft_limit_in_bytes = 500");
        let down = lines(Version::V1, MEMORY, Some(5000)).unwrap();
        assert_eq!(down[0], "memory.limit_in_bytes = 1000");
        assert_eq!(down[1], "memory.memsw.limit_in_bytes = 2000");
    }

    #[test]
    fn no_limit_on_memory_is_none_on_swap() {
        let none = r#"{"memory":{"limit":-1}}"#;
        assert_eq!(
            lines(Version::V1, none, Some(100)).unwrap(),
            ["memory.memsw.limit_in_bytes = -1 (if there is one)", "memory.limit_in_bytes = -1"]
        );
        assert_eq!(
            lines(Version::V2, none, None).unwrap(),
            ["memory.swap.max = max (if there is one)", "memory.max = max"]
        );
    }

    #[test]
    fn with_v2_swap_is_what_is_beyond_memory() {
        let swap = |swap: i64| {
            let text = format!(r#"{{"memory":{{"limit":1000,"swap":{swap}}}}}"#);
            lines(Version::V2, &text, None).map(|lines| lines[0].clone())
        };
        assert_eq!(swap(3000).unwrap(), "memory.swap.max = 2000");
        assert_eq!(swap(1000).unwrap(), "memory.swap.max = 0 (if there is one)");
        assert_eq!(swap(-1).unwrap(), "memory.swap.max = max (if there is one)");
        assert_eq!(swap(0).unwrap(), "memory.max = 1000");
        assert_eq!(swap(500), Err(LimitError::SwapBelowLimit));
        let alone = lines(Version::V2, r#"{"memory":{"swap":1000}}"#, None);
        assert_eq!(alone, Err(LimitError::SwapWithoutLimit));
    }

    const CPU: &str = r#"{"cpu":{"shares":1024,"quota":50000,"period":200000,"burst":1000,
        "idle":0,"cpus":"0-1","mems":"","realtimePeriod":1000000,"realtimeRuntime":900000}}"#;

    #[test]
    fn processor_limits_of_v1() {
        assert_eq!(
            lines(Version::V1, CPU, None).unwrap(),
            [
                "cpuset.cpus = 0-1",
                "cpu.shares = 1024",
                "cpu.cfs_period_us = 200000 (or at the end)",
                "cpu.cfs_burst_us = 1000 (or at the end)",
                "cpu.cfs_quota_us = 50000",
                "cpu.idle = 0",
                "cpu.rt_period_us = 1000000 (or at the end)",
                "cpu.rt_runtime_us = 900000",
            ]
        );
    }

    #[test]
    fn processor_limits_of_v2() {
        assert_eq!(
            lines(Version::V2, CPU, None).unwrap(),
            [
                "cpuset.cpus = 0-1",
                "cpu.idle = 0",
                "cpu.weight = 100",
                "cpu.max.burst = 1000 (or at the end)",
                "cpu.max = 50000 200000",
            ]
        );
        let period = lines(Version::V2, r#"{"cpu":{"period":50000}}"#, None).unwrap();
        assert_eq!(period, ["cpu.max = max 50000"]);
    }

    #[test]
    fn shares_that_the_kernel_would_change_in_silence_are_refused() {
        let shares =
            |shares: u64| lines(Version::V1, &format!(r#"{{"cpu":{{"shares":{shares}}}}}"#), None);
        assert_eq!(shares(1), Err(LimitError::TooFewShares));
        assert_eq!(shares(262_145), Err(LimitError::TooManyShares));
        assert_eq!(shares(2).unwrap(), ["cpu.shares = 2"]);
        assert_eq!(shares(0).unwrap(), [""; 0]);
    }

    #[test]
    fn shares_keep_their_order_as_weights() {
        let weights = [0, 2, 100, 512, 1024, 2048, 262_143, 262_144].map(weight_of_shares);
        assert_eq!(weights, [1, 1, 17, 59, 100, 174, 10_000, 10_000]);
    }

    #[test]
    fn disks_processes_and_huge_pages() {
        let text = r#"{"pids":{"limit":-1},"hugepageLimits":[{"pageSize":"2MB","limit":4096}],
            "blockIO":{"weight":1000,"weightDevice":[{"major":8,"minor":0,"weight":10}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":100}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}"#;
        assert_eq!(
            lines(Version::V1, text, None).unwrap(),
            [
                "pids.max = max",
                "blkio.weight = 1000, or blkio.bfq.weight = 1000",
                "blkio.weight_device = 8:0 10, or blkio.bfq.weight_device = 8:0 10",
                "blkio.throttle.read_bps_device = 8:0 100",
                "blkio.throttle.write_iops_device = 8:0 0",
                "hugetlb.2MB.limit_in_bytes = 4096",
            ]
        );
        assert_eq!(
            lines(Version::V2, text, None).unwrap(),
            [
                "pids.max = max",
                "io.bfq.weight = 1000, or io.weight = 10000",
                "io.bfq.weight = 8:0 10, or io.weight = 8:0 1",
                "io.max = 8:0 rbps=100",
                "io.max = 8:0 wiops=max",
                "hugetlb.2MB.max = 4096",
            ]
        );
    }

    #[test]
    fn a_weight_of_leaves_is_v1s() {
        let none = lines(Version::V2, r#"{"blockIO":{"leafWeight":0}}"#, None);
        assert_eq!(none.unwrap(), [""; 0]);
        for block in
            [r#""leafWeight":10"#, r#""weightDevice":[{"major":8,"minor":0,"leafWeight":10}]"#]
        {
            let text = format!(r#"{{"blockIO":{{{block}}}}}"#);
            assert_eq!(lines(Version::V2, &text, None), Err(LimitError::LeafWeightOnV2));
            assert_eq!(lines(Version::V1, &text, None).unwrap().len(), 1);
        }
    }

    #[test]
    fn what_is_unified_is_v2s_and_stays_in_the_group() {
        let text = r#"{"unified":{"pids.max":"10","memory.high":"1000"}}"#;
        let v2 = lines(Version::V2, text, None).unwrap();
        assert_eq!(v2, ["memory.high = 1000", "pids.max = 10"]);
        assert_eq!(lines(Version::V1, text, None), Err(LimitError::UnifiedOnV1));
        let devices = r#"{"unified":{"io.max":"7:0 riops=3\n7:1 riops=5\n"}}"#;
        let devices = lines(Version::V2, devices, None).unwrap();
        assert_eq!(devices, ["io.max = 7:0 riops=3", "io.max = 7:1 riops=5"]);
        let out = lines(Version::V2, r#"{"unified":{"../pids.max":"10"}}"#, None);
        assert_eq!(out, Err(LimitError::UnifiedKey("../pids.max".to_owned())));
    }

    #[test]
    fn a_limit_of_no_processes_is_one_of_one() {
        let none = lines(Version::V1, r#"{"pids":{"limit":0}}"#, None).unwrap();
        assert_eq!(none, ["pids.max = 1"]);
    }
}
