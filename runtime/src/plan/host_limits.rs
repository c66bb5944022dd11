//! What a microVM may take of the host, all of it together: monitor, virtual machine, and what the
//! kernel keeps for them. The container's own limits hold in the guest; these hold when the guest
//! is lost to its workload.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxResources};

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
/// Threads beside the virtual processors: main, devices, files, and the kernel's own helpers.
const THREADS: u64 = 32;

const MIB: u64 = 1 << 20;

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
        wanted.set_unified(unified_processor_time(resources));
    }
    let writes = limits::writes(version, &wanted, Present::default())?;
    Ok(writes.into_iter().map(lenient_where_none).collect())
}

/// What `unified` says of processor time.
fn unified_processor_time(resources: &LinuxResources) -> Option<HashMap<String, String>> {
    let mut unified = resources.unified().clone()?;
    unified.retain(|key, _| key.starts_with("cpu."));
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
}
