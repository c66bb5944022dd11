//! Device access rules: the spec's, and those that every container has, as one ordered list.
//!
//! The meaning is that of the first cgroup device controller: rules are applied in order, each
//! sets or clears access bits for the devices that it names; what no rule allows is refused.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::device_program;
use super::disks::{DiskNumber, GivenDisk};

/// `BPF_DEVCG_ACC_MKNOD`.
pub(super) const MKNOD: u32 = 1;
/// `BPF_DEVCG_ACC_READ`.
pub(super) const READ: u32 = 2;
/// `BPF_DEVCG_ACC_WRITE`.
pub(super) const WRITE: u32 = 4;
const EVERYTHING: u32 = MKNOD | READ | WRITE;

/// `BPF_DEVCG_DEV_BLOCK`.
pub(super) const BLOCK: u32 = 1;
/// `BPF_DEVCG_DEV_CHAR`.
pub(super) const CHAR: u32 = 2;

/// The major number of loop devices, of which every kernel has its own.
const LOOP: u32 = 7;

/// A minor number has 20 bits, a major one fewer.
const MAX_NUMBER: u32 = 0xf_ffff;

/// One rule; `None` matches every value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceRule {
    pub(super) allow: bool,
    /// [`BLOCK`] or [`CHAR`].
    pub(super) kind: Option<u32>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    /// Bits of [`MKNOD`], [`READ`], [`WRITE`].
    pub(super) access: u32,
}

impl DeviceRule {
    const fn allow(kind: u32, major: Option<u32>, minor: Option<u32>, access: u32) -> Self {
        Self { allow: true, kind: Some(kind), major, minor, access }
    }

    /// The same in a guest. A number of a block device means another one there: what is said of the host's is said
    /// of the disks that the guest has of them, and of its own loop devices.
    fn in_guest(self, disks: &[GivenDisk]) -> Vec<Self> {
        let names_none = self.major.is_none() && self.minor.is_none();
        if self.kind != Some(BLOCK) || names_none {
            return vec![self];
        }
        let of_disk = |disk: &GivenDisk| {
            let DiskNumber { major, minor } = disk.guest;
            Self { major: Some(major), minor: Some(minor), ..self }
        };
        let disks = disks.iter().filter(|disk| self.is_about(disk.host)).map(of_disk);
        let own = Some(self).filter(|_| self.major == Some(LOOP));
        disks.chain(own).collect()
    }

    fn is_about(&self, disk: DiskNumber) -> bool {
        self.kind.is_none_or(|kind| kind == BLOCK)
            && self.major.is_none_or(|major| major == disk.major)
            && self.minor.is_none_or(|minor| minor == disk.minor)
    }

    const fn is_about_everything(&self) -> bool {
        self.kind.is_none()
            && self.major.is_none()
            && self.minor.is_none()
            && self.access == EVERYTHING
    }
}

/// What every container may do: make any node, and use the devices that it always has.
const DEFAULTS: [DeviceRule; 10] = [
    DeviceRule::allow(CHAR, None, None, MKNOD),
    DeviceRule::allow(BLOCK, None, None, MKNOD),
    DeviceRule::allow(CHAR, Some(1), Some(3), EVERYTHING),
    DeviceRule::allow(CHAR, Some(1), Some(5), EVERYTHING),
    DeviceRule::allow(CHAR, Some(1), Some(7), EVERYTHING),
    DeviceRule::allow(CHAR, Some(1), Some(8), EVERYTHING),
    DeviceRule::allow(CHAR, Some(1), Some(9), EVERYTHING),
    DeviceRule::allow(CHAR, Some(5), Some(0), EVERYTHING),
    DeviceRule::allow(CHAR, Some(5), Some(2), EVERYTHING),
    // Terminals of the container's own devpts.
    DeviceRule::allow(CHAR, Some(136), None, EVERYTHING),
];

/// A rule that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceRuleError {
    /// Access.
    #[error(
        "linux.resources.devices[{index}].access {access:?} is not made of \"r\", \"w\", \"m\""
    )]
    Access {
        /// Which rule.
        index: usize,
        /// What it says.
        access: String,
    },
    /// A number.
    #[error("linux.resources.devices[{index}]: {number} is not a device number")]
    Number {
        /// Which rule.
        index: usize,
        /// What it says.
        number: i64,
    },
    /// A kind of file that is not a device.
    #[error("linux.resources.devices[{0}].type is not a device")]
    Kind(usize),
}

/// The program that holds the rules in a guest which has these disks; `None` when everything is
/// allowed.
pub(super) fn program(
    resources: Option<&LinuxResources>,
    disks: &[GivenDisk],
) -> Result<Option<Vec<u8>>, DeviceRuleError> {
    let mut list: Vec<DeviceRule> =
        parse_all(resources)?.iter().flat_map(|rule| rule.in_guest(disks)).collect();
    list.extend(DEFAULTS);
    let list = effective(&list);
    let all_allowed = list.iter().all(|rule| rule.allow)
        && list.first().is_some_and(DeviceRule::is_about_everything);
    Ok((!all_allowed).then(|| device_program::generate(list)))
}

/// Whether a disk of the host's may be written to.
pub(super) fn may_write(
    resources: Option<&LinuxResources>,
    disk: DiskNumber,
) -> Result<bool, DeviceRuleError> {
    let rules = parse_all(resources)?;
    let about = |rule: &&DeviceRule| rule.is_about(disk) && rule.access & WRITE != 0;
    Ok(rules.iter().rev().find(about).is_some_and(|rule| rule.allow))
}

fn parse_all(resources: Option<&LinuxResources>) -> Result<Vec<DeviceRule>, DeviceRuleError> {
    let rules = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    rules.iter().enumerate().map(|(index, rule)| parse(index, rule)).collect()
}

/// Without the rules that a later one about everything overrides.
fn effective(rules: &[DeviceRule]) -> &[DeviceRule] {
    let start = rules.iter().rposition(DeviceRule::is_about_everything).unwrap_or(0);
    rules.get(start..).unwrap_or_default()
}

fn parse(index: usize, rule: &LinuxDeviceCgroup) -> Result<DeviceRule, DeviceRuleError> {
    let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        // As runc has it: "a" is every device, whatever else the rule says.
        LinuxDeviceType::A => {
            return Ok(DeviceRule {
                allow: rule.allow(),
                kind: None,
                major: None,
                minor: None,
                access: EVERYTHING,
            });
        }
        LinuxDeviceType::B => BLOCK,
        LinuxDeviceType::C | LinuxDeviceType::U => CHAR,
        LinuxDeviceType::P => return Err(DeviceRuleError::Kind(index)),
    };
    Ok(DeviceRule {
        allow: rule.allow(),
        kind: Some(kind),
        major: number(index, rule.major())?,
        minor: number(index, rule.minor())?,
        access: access(index, rule.access().as_deref().unwrap_or("rwm"))?,
    })
}

/// -1 is the wildcard of the command lines that specs are made from.
fn number(index: usize, value: Option<i64>) -> Result<Option<u32>, DeviceRuleError> {
    match value {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number)
            .ok()
            .filter(|number| *number <= MAX_NUMBER)
            .map(Some)
            .ok_or(DeviceRuleError::Number { index, number }),
    }
}

fn access(index: usize, text: &str) -> Result<u32, DeviceRuleError> {
    let bit = |letter| match letter {
        'r' => Some(READ),
        'w' => Some(WRITE),
        'm' => Some(MKNOD),
        _ => None,
    };
    let invalid = || DeviceRuleError::Access { index, access: text.to_owned() };
    text.chars().try_fold(0, |bits, letter| bit(letter).map(|bit| bits | bit)).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(devices: &str) -> LinuxResources {
        serde_json::from_str(&format!(r#"{{"devices":{devices}}}"#)).unwrap()
    }

    #[test]
    fn a_privileged_container_needs_no_program() {
        let all = resources(r#"[{"allow":false,"access":"rwm"},{"allow":true,"access":"rwm"}]"#);
        assert_eq!(program(Some(&all), &[]), Ok(None));
    }

    #[test]
    fn without_rules_the_defaults_alone_hold() {
        assert_eq!(program(None, &[]), Ok(Some(device_program::generate(&DEFAULTS))));
    }

    #[test]
    fn what_a_rule_about_everything_overrides_is_left_out() {
        let everything =
            DeviceRule { allow: false, kind: None, major: None, minor: None, access: EVERYTHING };
        let list = [DEFAULTS[0], everything, DEFAULTS[1]];
        assert_eq!(effective(&list), &list[1..]);
    }

    #[test]
    fn a_rule_for_a_disk_of_the_host_s_is_one_for_that_of_the_guest_s() {
        let number = |major, minor| DiskNumber { major, minor };
        let disks = [
            GivenDisk { host: number(8, 16), guest: number(254, 0) },
            GivenDisk { host: number(8, 32), guest: number(254, 16) },
        ];
        let in_guest = |major, minor| {
            let rule = DeviceRule::allow(BLOCK, major, minor, READ);
            let numbers = |rule: &DeviceRule| (rule.major, rule.minor);
            rule.in_guest(&disks).iter().map(numbers).collect::<Vec<_>>()
        };
        let (first, second) = ((Some(254), Some(0)), (Some(254), Some(16)));
        assert_eq!(in_guest(Some(8), Some(32)), [second]);
        assert_eq!(in_guest(Some(8), None), [first, second]);
        assert_eq!(in_guest(None, Some(16)), [first]);
        // What the number means in the guest was not said.
        assert_eq!(in_guest(Some(254), Some(16)), []);
        assert_eq!(in_guest(Some(254), None), []);
        // Whatever there is; and the guest's own.
        assert_eq!(in_guest(None, None), [(None, None)]);
        assert_eq!(in_guest(Some(7), None), [(Some(7), None)]);
    }

    #[test]
    fn a_rule_that_cannot_be_read_is_named() {
        let wrong = resources(r#"[{"allow":true,"type":"c","access":"rx"}]"#);
        let access = "rx".to_owned();
        assert_eq!(program(Some(&wrong), &[]), Err(DeviceRuleError::Access { index: 0, access }));
        let wrong = resources(r#"[{"allow":true,"type":"c","major":-2}]"#);
        assert_eq!(
            program(Some(&wrong), &[]),
            Err(DeviceRuleError::Number { index: 0, number: -2 })
        );
    }
}
