//! `linux`, but for its namespaces, limits and filters.

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxMemoryPolicy, LinuxNamespaceType,
    MemoryPolicyFlagType, MemoryPolicyModeType, Spec,
};

use super::process::CPUS;
use super::value::{absolute, no_nul, number, refused, text, within};
use super::{InvalidSpec, has_namespace};
use crate::spec::cpu_list;

/// The largest major and minor numbers that Linux has.
const MAX_MAJOR: i64 = 0xfff;
const MAX_MINOR: i64 = 0xf_ffff;
const NANOSECONDS: u32 = 1_000_000_000;
const PROPAGATION: &str =
    "private, shared, slave or unbindable, or one of these with an r for the whole tree";

/// The rules.
pub(super) fn check(spec: &Spec) -> Result<(), InvalidSpec> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        check_device(&format!("linux.devices[{index}]"), device)?;
    }
    time_offsets(spec, linux)?;
    net_devices(spec, linux)?;
    sysctl(linux)?;
    propagation(linux)?;
    paths("linux.maskedPaths", linux.masked_paths().as_deref())?;
    paths("linux.readonlyPaths", linux.readonly_paths().as_deref())?;
    let group = linux.cgroups_path().as_ref().map(|path| path.to_string_lossy());
    no_nul("linux.cgroupsPath", group.as_deref().unwrap_or_default())?;
    linux.memory_policy().as_ref().map_or(Ok(()), memory_policy)
}

/// Type bits in the mode are passed over, as runc does: engines write them.
fn check_device(path: &str, device: &LinuxDevice) -> Result<(), InvalidSpec> {
    text(&format!("{path}.path"), &device.path().to_string_lossy())?;
    let kind = device.typ();
    if kind == LinuxDeviceType::A {
        return Err(refused(&format!("{path}.type"), "a", "b, c, u or p"));
    }
    let (major, minor) = (device.major(), device.minor());
    if kind != LinuxDeviceType::P {
        let is_major = (0..=MAX_MAJOR).contains(&major);
        within(&format!("{path}.major"), major, is_major, "0 to 4095")?;
        let is_minor = (0..=MAX_MINOR).contains(&minor);
        within(&format!("{path}.minor"), minor, is_minor, "0 to 1048575")?;
    }
    for (name, id) in [("uid", device.uid()), ("gid", device.gid())] {
        let id = id.unwrap_or_default();
        within(&format!("{path}.{name}"), id, id != u32::MAX, "0 to 4294967294")?;
    }
    Ok(())
}

fn time_offsets(spec: &Spec, linux: &Linux) -> Result<(), InvalidSpec> {
    let mut offsets: Vec<_> = linux.time_offsets().iter().flatten().collect();
    offsets.sort_by_key(|(clock, _)| clock.as_str());
    for (clock, offset) in &offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(refused("linux.timeOffsets", clock, "monotonic and boottime"));
        }
        let nanoseconds = offset.nanosecs().unwrap_or_default();
        let path = format!("linux.timeOffsets.{clock}.nanosecs");
        within(&path, nanoseconds, nanoseconds < NANOSECONDS, "0 to 999999999")?;
    }
    if offsets.is_empty() || has_namespace(spec, LinuxNamespaceType::Time) {
        return Ok(());
    }
    let needed = "a time namespace in linux.namespaces";
    Err(InvalidSpec::Without { path: "linux.timeOffsets".to_owned(), needed })
}

fn net_devices(spec: &Spec, linux: &Linux) -> Result<(), InvalidSpec> {
    let path = "linux.netDevices";
    let allowed = "names of 1 to 15 bytes, without slashes, colons and spaces";
    let is_name = |name: &str| {
        let plain = |letter: char| !letter.is_whitespace() && !matches!(letter, '/' | ':' | '\0');
        (1..=15).contains(&name.len()) && !matches!(name, "." | "..") && name.chars().all(plain)
    };
    let mut devices: Vec<_> = linux.net_devices().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| name.as_str());
    for (name, device) in &devices {
        if !is_name(name) {
            return Err(refused(path, name, allowed));
        }
        if let Some(new) = device.name().as_ref().filter(|new| !new.is_empty() && !is_name(new)) {
            return Err(refused(&format!("{path}.{name}.name"), new, allowed));
        }
    }
    if devices.is_empty() || has_namespace(spec, LinuxNamespaceType::Network) {
        return Ok(());
    }
    let needed = "a network namespace in linux.namespaces";
    Err(InvalidSpec::Without { path: path.to_owned(), needed })
}

/// Names may be written with slashes, as runc takes them.
fn sysctl(linux: &Linux) -> Result<(), InvalidSpec> {
    let mut parameters: Vec<_> = linux.sysctl().iter().flatten().collect();
    parameters.sort();
    for (key, value) in parameters {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        let parts_named = key.split(['.', '/']).all(|part| !part.is_empty());
        if !parts_named || !key.bytes().all(plain) {
            return Err(refused(
                "linux.sysctl",
                key,
                "names of kernel parameters: net.core.somaxconn",
            ));
        }
        no_nul(&format!("linux.sysctl.{key}"), value)?;
    }
    Ok(())
}

fn propagation(linux: &Linux) -> Result<(), InvalidSpec> {
    let Some(name) = linux.rootfs_propagation().as_deref() else { return Ok(()) };
    let plain = name.strip_prefix('r').unwrap_or(name);
    match plain {
        "" if name.is_empty() => Ok(()),
        "private" | "shared" | "slave" | "unbindable" => Ok(()),
        _ => Err(refused("linux.rootfsPropagation", name, PROPAGATION)),
    }
}

fn paths(path: &str, list: Option<&[String]>) -> Result<(), InvalidSpec> {
    let mut list = list.unwrap_or_default().iter().enumerate();
    list.try_for_each(|(index, value)| absolute(&format!("{path}[{index}]"), value.as_ref()))
}

fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<(), InvalidSpec> {
    use MemoryPolicyModeType::{MpolDefault, MpolLocal, MpolPreferred};
    let path = "linux.memoryPolicy.nodes";
    let nodes = policy.nodes().as_deref().unwrap_or_default();
    match (policy.mode(), nodes.is_empty()) {
        (MpolDefault | MpolLocal, false) => {
            return Err(refused(path, nodes, "none with this mode"));
        }
        (MpolDefault | MpolLocal | MpolPreferred, true) => {}
        (_, true) => return Err(InvalidSpec::Empty { path: path.to_owned() }),
        (_, false) => {
            cpu_list::parse(nodes).ok_or_else(|| refused(path, nodes, CPUS))?;
        }
    }
    let flags = policy.flags().as_deref().unwrap_or_default();
    let has = |flag| flags.contains(&flag);
    if has(MemoryPolicyFlagType::MpolFStaticNodes) && has(MemoryPolicyFlagType::MpolFRelativeNodes)
    {
        let allowed = "one of MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES";
        return Err(number("linux.memoryPolicy.flags", "both", allowed));
    }
    Ok(())
}
