//! `linux.resources`: of a new container, and of one whose limits change.
//!
//! As with runc, zero is no limit where the kernel has no limit of zero, and -1 lifts one.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources,
    LinuxThrottleDevice, Spec,
};

use super::InvalidSpec;
use super::process::CPUS;
use super::value::{no_nul, refused, text, within};
use crate::spec::cpu_list;

const OR_UNLIMITED: &str = "-1 (no limit) or a number of bytes";
const WEIGHT: &str = "10 to 1000, or 0 for none";

/// Of a new container.
pub(super) fn check(spec: &Spec) -> Result<(), InvalidSpec> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    resources.map_or(Ok(()), check_resources)
}

/// The rules for limits.
///
/// # Errors
/// The first property that is wrong.
pub fn check_resources(resources: &LinuxResources) -> Result<(), InvalidSpec> {
    for (index, rule) in resources.devices().iter().flatten().enumerate() {
        device(&format!("linux.resources.devices[{index}]"), rule)?;
    }
    resources.memory().as_ref().map_or(Ok(()), memory)?;
    resources.cpu().as_ref().map_or(Ok(()), cpu)?;
    resources.block_io().as_ref().map_or(Ok(()), block_io)?;
    huge_pages(resources)?;
    network(resources)?;
    rdma(resources)?;
    unified(resources)
}

fn device(path: &str, rule: &LinuxDeviceCgroup) -> Result<(), InvalidSpec> {
    if rule.typ() == Some(LinuxDeviceType::P) {
        return Err(refused(&format!("{path}.type"), "p", "a, b, c or u"));
    }
    for (name, number, most, allowed) in [
        ("major", rule.major(), 0xfff, "0 to 4095, or -1 for all"),
        ("minor", rule.minor(), 0xf_ffff, "0 to 1048575, or -1 for all"),
    ] {
        let number = number.unwrap_or(-1);
        within(&format!("{path}.{name}"), number, (-1..=most).contains(&number), allowed)?;
    }
    let access = rule.access().as_deref().unwrap_or_default();
    if access.chars().all(|letter| matches!(letter, 'r' | 'w' | 'm')) {
        return Ok(());
    }
    Err(refused(&format!("{path}.access"), access, "letters of rwm"))
}

fn memory(memory: &LinuxMemory) -> Result<(), InvalidSpec> {
    #[allow(deprecated, reason = "engines may still write them")]
    let limits = [
        ("limit", memory.limit()),
        ("reservation", memory.reservation()),
        ("swap", memory.swap()),
        ("kernel", memory.kernel()),
        ("kernelTCP", memory.kernel_tcp()),
    ];
    for (name, limit) in limits {
        let limit = limit.unwrap_or_default();
        within(&format!("linux.resources.memory.{name}"), limit, limit >= -1, OR_UNLIMITED)?;
    }
    let path = "linux.resources.memory.swappiness";
    let swappiness = memory.swappiness().unwrap_or_default();
    within(path, swappiness, swappiness <= 100, "0 to 100")?;
    let path = "linux.resources.memory.swap";
    let swap = memory.swap().filter(|swap| *swap > 0);
    match (swap, memory.limit().unwrap_or_default()) {
        (Some(_), 0) => {
            let needed = "linux.resources.memory.limit";
            Err(InvalidSpec::Without { path: path.to_owned(), needed })
        }
        (Some(swap), limit) => within(path, swap, swap >= limit, "memory.limit or more"),
        (None, _) => Ok(()),
    }
}

fn cpu(cpu: &LinuxCpu) -> Result<(), InvalidSpec> {
    let path = |name: &str| format!("linux.resources.cpu.{name}");
    let shares = cpu.shares().unwrap_or_default();
    within(&path("shares"), shares, shares <= 262_144, "2 to 262144, or 0 for none")?;
    let quota = cpu.quota().unwrap_or_default();
    // Any negative one is no limit, to the kernel of v1 and to the runtimes.
    let allowed = "1000 microseconds or more, 0 for none, or -1 (no limit)";
    within(&path("quota"), quota, quota <= 0 || quota >= 1000, allowed)?;
    let period = cpu.period().unwrap_or_default();
    let allowed = "1000 to 1000000 microseconds, or 0 for the default";
    within(&path("period"), period, matches!(period, 0 | 1000..=1_000_000), allowed)?;
    let burst = cpu.burst().unwrap_or_default();
    let within_quota = quota <= 0 || burst <= quota.unsigned_abs();
    within(&path("burst"), burst, within_quota, "0 to the quota")?;
    let idle = cpu.idle().unwrap_or_default();
    within(&path("idle"), idle, matches!(idle, 0 | 1), "0 or 1")?;
    let realtime = cpu.realtime_runtime().unwrap_or_default();
    within(&path("realtimeRuntime"), realtime, realtime >= -1, "-1 or more microseconds")?;
    for (name, list) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
        let list = list.as_deref().unwrap_or_default().trim();
        if !list.is_empty() && cpu_list::parse(list).is_none() {
            return Err(refused(&path(name), list, CPUS));
        }
    }
    Ok(())
}

fn block_io(block: &LinuxBlockIo) -> Result<(), InvalidSpec> {
    let weight = |path: &str, weight: Option<u16>| {
        let weight = weight.unwrap_or_default();
        within(path, weight, matches!(weight, 0 | 10..=1000), WEIGHT)
    };
    let section = "linux.resources.blockIO";
    weight(&format!("{section}.weight"), block.weight())?;
    weight(&format!("{section}.leafWeight"), block.leaf_weight())?;
    for (index, device) in block.weight_device().iter().flatten().enumerate() {
        let path = format!("{section}.weightDevice[{index}]");
        numbers(&path, device.major(), device.minor())?;
        weight(&format!("{path}.weight"), device.weight())?;
        weight(&format!("{path}.leafWeight"), device.leaf_weight())?;
    }
    let throttles = [
        ("throttleReadBpsDevice", block.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", block.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", block.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", block.throttle_write_iops_device()),
    ];
    throttles.into_iter().try_for_each(|(name, list)| {
        throttled(&format!("{section}.{name}"), list.as_deref().unwrap_or_default())
    })
}

fn throttled(path: &str, devices: &[LinuxThrottleDevice]) -> Result<(), InvalidSpec> {
    let mut devices = devices.iter().enumerate();
    devices.try_for_each(|(index, device)| {
        numbers(&format!("{path}[{index}]"), device.major(), device.minor())
    })
}

fn numbers(path: &str, major: i64, minor: i64) -> Result<(), InvalidSpec> {
    within(&format!("{path}.major"), major, (0..=0xfff).contains(&major), "0 to 4095")?;
    within(&format!("{path}.minor"), minor, (0..=0xf_ffff).contains(&minor), "0 to 1048575")
}

fn huge_pages(resources: &LinuxResources) -> Result<(), InvalidSpec> {
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let path = format!("linux.resources.hugepageLimits[{index}]");
        let size = limit.page_size();
        let digits = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit));
        let is_number = |digits: &str| {
            !digits.starts_with('0') && digits.len() <= 9 && digits.parse::<u32>().is_ok()
        };
        if !digits.is_some_and(is_number) {
            let allowed = "a number and KB, MB or GB: 2MB";
            return Err(refused(&format!("{path}.pageSize"), size, allowed));
        }
        within(&format!("{path}.limit"), limit.limit(), limit.limit() >= -1, OR_UNLIMITED)?;
    }
    Ok(())
}

fn network(resources: &LinuxResources) -> Result<(), InvalidSpec> {
    let network = resources.network().as_ref();
    let priorities = network.and_then(|network| network.priorities().as_deref());
    let mut priorities = priorities.unwrap_or_default().iter().enumerate();
    priorities.try_for_each(|(index, priority)| {
        text(&format!("linux.resources.network.priorities[{index}].name"), priority.name())
    })
}

fn rdma(resources: &LinuxResources) -> Result<(), InvalidSpec> {
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| name.as_str());
    for (name, limit) in devices {
        if limit.hca_handles().is_none() && limit.hca_objects().is_none() {
            return Err(InvalidSpec::Empty { path: format!("linux.resources.rdma.{name}") });
        }
    }
    Ok(())
}

fn unified(resources: &LinuxResources) -> Result<(), InvalidSpec> {
    let mut files: Vec<_> = resources.unified().iter().flatten().collect();
    files.sort();
    for (name, value) in files {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !name.contains('.') || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(refused("linux.resources.unified", name, "files of a cgroup: memory.high"));
        }
        no_nul(&format!("linux.resources.unified.{name}"), value)?;
    }
    Ok(())
}
