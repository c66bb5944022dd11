//! What a microVM may take of the host, all of it together: monitor, virtual machine, and what the
//! kernel keeps for them. The container's own limits hold in the guest; these hold when the guest
//! is lost to its workload.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxResources};

use super::VmShape;
use crate::cgroup::limits::{self, LimitError, Present, Version};
use crate::cgroup::writes::{OnRefusal, Write};

/// What a monitor takes beside its guest's memory: its own pages, the kernel's tables for the
/// virtual machine, queues, and cached files, which go when they are in the way. Measured with a
/// guest of 259 MiB that had touched 100 MiB and read some hundred files: 2 MiB of the monitor's, 3
/// of the kernel's, 12 of cached files.
pub const OVERHEAD_MIB: u64 = 48;
/// Two levels of page tables and the kernel's notes on each page grow with the memory: 16 bytes for
/// 4 KiB, and as much again to be safe.
const OVERHEAD_PART: u64 = 128;
/// What the host keeps of a file that the guest remembers, at most: the monitor its note, the kernel the
/// open descriptor, the name, and the file's own inode, which is the largest part and cannot be given
/// back while the guest may ask for it. Measured on ext4 with a million files: 240 bytes, 200, and 1340
/// for name and inode. Without a bound on them a guest that walks through a large tree
/// is ended for what the host keeps of it.
const FILE_BYTES: u64 = 2048;
/// What the monitor keeps for itself (`virtio`'s file server leaves as many).
const OWN_DESCRIPTORS: u64 = 2048;
/// Threads beside the virtual processors: main, devices, files, and the kernel's own helpers.
const THREADS: u64 = 32;

const MIB: u64 = 1 << 20;

/// The files of the controller that counts what is read from disks and written to them.
pub(super) const DISKS_IN_UNIFIED: &str = "io.";

/// The limits that hold from the monitor's first instruction on.
#[must_use]
pub fn at_birth(version: Version, shape: &VmShape) -> Vec<Write> {
    let threads = THREADS + u64::from(shape.vcpus_max);
    vec![
        of_memory(version, shape.memory_mib.into()),
        Write::new("pids.max", threads).refused(OnRefusal::IgnoreMissing),
    ]
}

/// The limit on memory for a guest with this many MiB of it.
#[must_use]
pub fn of_memory(version: Version, guest_mib: u64) -> Write {
    let bytes = (guest_mib + guest_mib / OVERHEAD_PART + OVERHEAD_MIB) * MIB;
    let file = match version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    };
    Write::new(file, bytes).refused(OnRefusal::IgnoreMissing)
}

/// How many descriptors a monitor may have, so that the files behind them take half of the overhead.
#[must_use]
pub const fn descriptors(guest_mib: u64) -> u64 {
    let room = (OVERHEAD_MIB + guest_mib / OVERHEAD_PART) * MIB / 2;
    OWN_DESCRIPTORS + room / FILE_BYTES
}

/// Those on processor time, which hold when the guest is up: its boot is not the container's.
///
/// # Errors
/// When they contradict the version.
pub fn of_processors(
    version: Version,
    resources: &LinuxResources,
) -> Result<Vec<Write>, LimitError> {
    let mut wanted = LinuxResources::default();
    if let Some(cpu) = resources.cpu() {
        let mut times = LinuxCpu::default();
        times
            .set_shares(cpu.shares())
            .set_quota(cpu.quota())
            .set_period(cpu.period())
            .set_burst(cpu.burst())
            .set_idle(cpu.idle());
        wanted.set_cpu(Some(times));
    }
    if version == Version::V2 {
        wanted.set_unified(unified_of(resources, "cpu."));
    }
    let writes = limits::writes(version, &wanted, Present::default())?;
    Ok(writes.into_iter().map(lenient_where_none).collect())
}

/// Those on the host's disks. A guest sees none of them: it is the monitor that reads and writes the
/// container's files, so that these hold for it and nowhere else, and none of them may be missing.
///
/// # Errors
/// When they contradict the version.
pub fn of_disks(version: Version, resources: &LinuxResources) -> Result<Vec<Write>, LimitError> {
    let mut wanted = LinuxResources::default();
    wanted
        .set_devices(None)
        .set_block_io(resources.block_io().clone())
        .set_unified(unified_of(resources, DISKS_IN_UNIFIED));
    limits::writes(version, &wanted, Present::default())
}

/// The field that limits the host's disks, if one does.
#[must_use]
pub fn disk_field(resources: &LinuxResources) -> Option<&'static str> {
    if resources.block_io().as_ref().is_some_and(limits_a_disk) {
        return Some("linux.resources.blockIO");
    }
    let unified = unified_of(resources, DISKS_IN_UNIFIED);
    unified.is_some_and(|files| !files.is_empty()).then_some("linux.resources.unified (io.*)")
}

/// A weight of zero is none.
fn limits_a_disk(block: &LinuxBlockIo) -> bool {
    let weighs = |weight: Option<u16>| weight.is_some_and(|weight| weight != 0);
    let throttles = [
        block.throttle_read_bps_device(),
        block.throttle_write_bps_device(),
        block.throttle_read_iops_device(),
        block.throttle_write_iops_device(),
    ];
    weighs(block.weight())
        || weighs(block.leaf_weight())
        || block.weight_device().as_ref().is_some_and(|list| !list.is_empty())
        || throttles.iter().any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
}

/// What `unified` says of one controller.
fn unified_of(resources: &LinuxResources, prefix: &str) -> Option<HashMap<String, String>> {
    let mut unified = resources.unified().clone()?;
    unified.retain(|key, _| key.starts_with(prefix));
    Some(unified)
}

/// A kernel without bursts or idle groups has none to take away.
fn lenient_where_none(write: Write) -> Write {
    if write.is_zero() { write.refused(OnRefusal::IgnoreMissing) } else { write }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(writes: &[Write]) -> Vec<String> {
        writes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_sandbox_may_take_its_guests_memory_and_the_stated_overhead() {
        let shape = VmShape {
            vcpus: 1,
            vcpus_max: 2,
            memory_mib: 256,
            memory_blocks_max: 0,
            host_cpus: Vec::new(),
            memory_policy: None,
        };
        assert_eq!(
            lines(&at_birth(Version::V2, &shape)),
            ["memory.max = 320864256 (if there is one)", "pids.max = 34 (if there is one)"]
        );
        assert_eq!(
            lines(&at_birth(Version::V1, &shape))[0],
            "memory.limit_in_bytes = 320864256 (if there is one)"
        );
    }

    #[test]
    fn the_files_that_a_guest_remembers_are_within_half_of_the_overhead() {
        assert_eq!(descriptors(256), 2048 + 12288 + 512);
        assert_eq!(descriptors(64 << 10), 2048 + 12288 + 131_072);
    }

    #[test]
    fn processor_time_is_the_containers() {
        let resources = r#"{"cpu":{"shares":512,"quota":50000,"cpus":"1","burst":0},
            "memory":{"limit":1}}"#;
        let resources = serde_json::from_str(resources).unwrap();
        let writes = of_processors(Version::V2, &resources).unwrap();
        let burst = "cpu.max.burst = 0 (if there is one)";
        assert_eq!(lines(&writes), ["cpu.weight = 59", burst, "cpu.max = 50000 100000"]);
    }

    #[test]
    fn what_is_unified_of_processor_time_holds_for_the_sandbox_where_it_can() {
        let resources = r#"{"unified":{"cpu.max":"max 100000","memory.max":"1","pids.max":"1"}}"#;
        let resources = serde_json::from_str(resources).unwrap();
        assert_eq!(
            lines(&of_processors(Version::V2, &resources).unwrap()),
            ["cpu.max = max 100000"]
        );
        assert!(of_processors(Version::V1, &resources).unwrap().is_empty());
    }

    fn disks(version: Version, resources: &str) -> Result<Vec<String>, LimitError> {
        let resources = serde_json::from_str(resources).unwrap();
        of_disks(version, &resources).map(|writes| lines(&writes))
    }

    #[test]
    fn the_hosts_disks_are_limited_for_the_sandbox_and_nothing_else_with_them() {
        let resources = r#"{"cpu":{"shares":512},"memory":{"limit":1},"pids":{"limit":1},
            "blockIO":{"weight":500,"throttleWriteBpsDevice":[{"major":7,"minor":1,"rate":1048576}],
            "throttleReadIOPSDevice":[{"major":7,"minor":1,"rate":20}]},
            "unified":{"io.latency":"7:1 target=10","memory.high":"1"}}"#;
        assert_eq!(
            disks(Version::V2, resources).unwrap(),
            [
                "io.bfq.weight = 500, or io.weight = 4950",
                "io.max = 7:1 wbps=1048576",
                "io.max = 7:1 riops=20",
                "io.latency = 7:1 target=10",
            ]
        );
        assert_eq!(disks(Version::V1, resources), Err(LimitError::UnifiedOnV1));
        let of_v1 = r#"{"blockIO":{"leafWeight":20,
            "throttleReadBpsDevice":[{"major":7,"minor":1,"rate":1048576}]},
            "unified":{"memory.high":"1"}}"#;
        assert_eq!(
            disks(Version::V1, of_v1).unwrap(),
            ["blkio.leaf_weight = 20", "blkio.throttle.read_bps_device = 7:1 1048576"]
        );
        assert_eq!(disks(Version::V2, of_v1), Err(LimitError::LeafWeightOnV2));
    }

    #[test]
    fn what_limits_a_disk_is_named() {
        let field = |resources: &str| disk_field(&serde_json::from_str(resources).unwrap());
        let block = Some("linux.resources.blockIO");
        assert_eq!(field(r#"{"blockIO":{"weight":0,"throttleReadBpsDevice":[]}}"#), None);
        assert_eq!(field(r#"{"unified":{"cpu.max":"max","iomem.max":"1"}}"#), None);
        assert_eq!(field(r#"{"blockIO":{"weight":10}}"#), block);
        assert_eq!(field(r#"{"blockIO":{"leafWeight":10}}"#), block);
        for list in ["ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS"] {
            let device = r#"[{"major":8,"minor":0,"rate":1}]"#;
            let text = format!(r#"{{"blockIO":{{"throttle{list}Device":{device}}}}}"#);
            assert_eq!(field(&text), block, "{text}");
        }
        let unified = r#"{"unified":{"io.max":"8:0 rbps=1"}}"#;
        assert_eq!(field(unified), Some("linux.resources.unified (io.*)"));
    }
}
