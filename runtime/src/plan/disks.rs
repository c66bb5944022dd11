//! Disks of the host's among a container's devices: what the guest gets of them, and under which
//! numbers it has them.
//!
//! A number means another disk in a guest than on the host. What the configuration says about the host's
//! number holds for the guest's, and nothing that it says of others.

use cofferdam_protocol::plan::{ContainerPlan, DeviceKind};
use oci_spec::runtime::{LinuxDeviceType, LinuxResources, Spec};

use super::device_rules::{self, DeviceRuleError};

/// The number of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DiskNumber {
    /// The driver's.
    pub major: u32,
    /// The driver's for this disk.
    pub minor: u32,
}

impl std::fmt::Display for DiskNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// A disk that the guest is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskPlan {
    /// The first of `linux.devices` that is it.
    pub index: usize,
    /// Its number on the host.
    pub number: DiskNumber,
    /// The container may write to it: `linux.resources.devices` says so.
    pub writable: bool,
}

/// A disk that the guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GivenDisk {
    /// Its number on the host.
    pub host: DiskNumber,
    /// Its number in the guest.
    pub guest: DiskNumber,
}

/// The disks among the devices, each once.
///
/// # Errors
/// For a rule that cannot be read.
pub fn plan(spec: &Spec) -> Result<Vec<DiskPlan>, DeviceRuleError> {
    let resources = resources(spec);
    let mut plans: Vec<DiskPlan> = Vec::new();
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref());
    for (index, device) in devices.unwrap_or_default().iter().enumerate() {
        let (major, minor) = (u32::try_from(device.major()), u32::try_from(device.minor()));
        let (LinuxDeviceType::B, Ok(major), Ok(minor)) = (device.typ(), major, minor) else {
            continue;
        };
        let number = DiskNumber { major, minor };
        if plans.iter().all(|plan| plan.number != number) {
            let writable = device_rules::may_write(resources, number)?;
            plans.push(DiskPlan { index, number, writable });
        }
    }
    Ok(plans)
}

/// Puts the guest's numbers into a container's plan.
///
/// # Errors
/// For a rule that cannot be read.
pub fn settle(
    container: &mut ContainerPlan,
    spec: &Spec,
    disks: &[GivenDisk],
) -> Result<(), DeviceRuleError> {
    for node in container.devices.iter_mut().filter(|node| node.kind == DeviceKind::Block) {
        let number = DiskNumber { major: node.major, minor: node.minor };
        if let Some(disk) = disks.iter().find(|disk| disk.host == number) {
            (node.major, node.minor) = (disk.guest.major, disk.guest.minor);
        }
    }
    container.cgroup.device_program = device_rules::program(resources(spec), disks)?;
    Ok(())
}

fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux().as_ref()?.resources().as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(devices: &str, rules: &str) -> Spec {
        let text = format!(
            r#"{{"ociVersion":"1.0.2","linux":{{"devices":{devices},"resources":{{"devices":{rules}}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    const TWO: &str = r#"[{"path":"/dev/null","type":"c","major":1,"minor":3},
        {"path":"/dev/a","type":"b","major":8,"minor":16},
        {"path":"/dev/b","type":"b","major":8,"minor":32},
        {"path":"/dev/again","type":"b","major":8,"minor":16}]"#;

    #[test]
    fn each_disk_is_planned_once_and_written_to_as_the_rules_allow() {
        let rules = r#"[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"b","major":8,"minor":16,"access":"rwm"},
            {"allow":true,"type":"b","major":8,"minor":32,"access":"r"}]"#;
        let plans = plan(&spec(TWO, rules)).unwrap();
        let number = |minor| DiskNumber { major: 8, minor };
        assert_eq!(
            plans,
            [
                DiskPlan { index: 1, number: number(16), writable: true },
                DiskPlan { index: 2, number: number(32), writable: false },
            ]
        );
    }

    #[test]
    fn a_rule_for_many_disks_or_all_devices_is_one_for_each() {
        for rules in
            [r#"[{"allow":true,"type":"b","major":8,"access":"rw"}]"#, r#"[{"allow":true}]"#]
        {
            assert!(plan(&spec(TWO, rules)).unwrap().iter().all(|plan| plan.writable));
        }
        // The last word counts.
        let rules = r#"[{"allow":true},{"allow":false,"type":"b","minor":32,"access":"w"}]"#;
        let writable: Vec<_> =
            plan(&spec(TWO, rules)).unwrap().iter().map(|plan| plan.writable).collect();
        assert_eq!(writable, [true, false]);
    }

    #[test]
    fn without_rules_nothing_is_written() {
        assert!(plan(&spec(TWO, "[]")).unwrap().iter().all(|plan| !plan.writable));
    }
}
