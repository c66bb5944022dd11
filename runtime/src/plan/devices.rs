//! Device nodes and links: those that every container has, and those that the spec adds.

use cofferdam_protocol::plan::{DeviceKind, DeviceNodePlan};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};

use super::device_numbers::is_everywhere;
use super::mounts;

/// What the runtime specification promises every container, beside its terminal: path and number.
const DEFAULT_NODES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const DEFAULT_LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// Everyone may read and write, as on any Linux.
const DEFAULT_MODE: u32 = 0o666;

/// The nodes, the spec's own in place of defaults with the same path.
pub(super) fn nodes(spec: &Spec) -> Vec<DeviceNodePlan> {
    let own: Vec<DeviceNodePlan> = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.devices().as_ref())
        .map(|devices| devices.iter().map(node).collect())
        .unwrap_or_default();
    if mounts::has_bound_dev(spec.mounts().as_deref().unwrap_or_default()) {
        return own;
    }
    let mut nodes: Vec<DeviceNodePlan> = DEFAULT_NODES
        .iter()
        .filter(|(path, ..)| own.iter().all(|device| device.path != *path))
        .map(|&(path, major, minor)| DeviceNodePlan {
            path: path.to_owned(),
            kind: DeviceKind::Char,
            major,
            minor,
            mode: DEFAULT_MODE,
            uid: 0,
            gid: 0,
        })
        .collect();
    nodes.extend(own);
    nodes
}

/// Links in `/dev`: link, then target.
pub(super) fn links(spec: &Spec) -> Vec<(String, String)> {
    if mounts::has_bound_dev(spec.mounts().as_deref().unwrap_or_default()) {
        return Vec::new();
    }
    DEFAULT_LINKS.iter().map(|&(link, target)| (link.to_owned(), target.to_owned())).collect()
}

/// Whether a guest can have the device with this number: its kernel has it of its own, or it is a disk.
pub(super) fn can_be_in_guest(device: &LinuxDevice) -> bool {
    match device.typ() {
        LinuxDeviceType::P | LinuxDeviceType::B => true,
        LinuxDeviceType::C | LinuxDeviceType::U => {
            let numbers = (u32::try_from(device.major()), u32::try_from(device.minor()));
            matches!(numbers, (Ok(major), Ok(minor)) if is_everywhere(major, minor))
        }
        LinuxDeviceType::A => false,
    }
}

fn node(device: &LinuxDevice) -> DeviceNodePlan {
    let number = |value: i64| u32::try_from(value).unwrap_or_default();
    DeviceNodePlan {
        path: mounts::absolute(device.path()).to_string_lossy().into_owned(),
        kind: match device.typ() {
            LinuxDeviceType::P => DeviceKind::Fifo,
            LinuxDeviceType::B => DeviceKind::Block,
            LinuxDeviceType::A | LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        },
        major: number(device.major()),
        minor: number(device.minor()),
        mode: device.file_mode().unwrap_or(DEFAULT_MODE) & 0o7777,
        uid: device.uid().unwrap_or_default(),
        gid: device.gid().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_specs_own_node_replaces_a_default() {
        let spec = spec(
            r#"{"ociVersion":"1.0.2","linux":{"devices":[
                {"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":384,"uid":7}]}}"#,
        );
        let nodes = nodes(&spec);
        let null: Vec<_> = nodes.iter().filter(|node| node.path == "/dev/null").collect();
        assert_eq!(nodes.len(), DEFAULT_NODES.len());
        assert_eq!((null.len(), null[0].mode, null[0].uid), (1, 0o600, 7));
    }

    #[test]
    fn a_bound_dev_is_left_as_it_is() {
        let spec = spec(
            r#"{"ociVersion":"1.0.2","mounts":[
                {"destination":"/dev","source":"/dev","type":"bind","options":["rbind"]}]}"#,
        );
        assert!(nodes(&spec).is_empty() && links(&spec).is_empty());
    }
}
