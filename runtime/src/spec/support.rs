//! What each kind of sandbox cannot honour: a table for each, so that nothing is dropped silently.
//! A property in the table is refused by its JSON path, with the reason; everything else that the
//! specification defines is honoured.
//!
//! Empty and zero values ask for nothing (engines write them all the time) and pass.

use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxResources, Mount, Process, Spec};

use crate::kind::SandboxKind;
use crate::spec::rules::namespace_name;

/// A property that a kind of sandbox cannot honour.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} cannot be honoured with isolation {}: {reason}", kind.name())]
pub struct Unsupported {
    /// Its JSON path.
    pub path: String,
    /// For what.
    pub kind: SandboxKind,
    /// Why not.
    pub reason: &'static str,
}

/// One line of a table: where to look, and why it is refused.
struct Rule {
    find: Find,
    reason: &'static str,
}

enum Find {
    /// One property, by its path.
    At(&'static str, fn(&Spec) -> bool),
    /// One of several; the function says which.
    Among(fn(&Spec) -> Option<String>),
}

const fn at(path: &'static str, asked: fn(&Spec) -> bool, reason: &'static str) -> Rule {
    Rule { find: Find::At(path, asked), reason }
}

const fn among(find: fn(&Spec) -> Option<String>, reason: &'static str) -> Rule {
    Rule { find: Find::Among(find), reason }
}

const OTHER_PLATFORM: &str = "it is for another platform";
const NO_SELINUX: &str = "SELinux labels are not implemented";
const NO_IDMAP: &str = "id-mapped mounts are not implemented";
const NO_RDMA: &str = "RDMA limits are not implemented";

/// For every kind.
const NOWHERE: [Rule; 9] = [
    at("windows", |spec| spec.windows().is_some(), OTHER_PLATFORM),
    at("solaris", |spec| spec.solaris().is_some(), OTHER_PLATFORM),
    at("zos", |spec| spec.zos().is_some(), OTHER_PLATFORM),
    at("vm", |spec| spec.vm().is_some(), "the operator's configuration shapes a microVM"),
    at("process.commandLine", |spec| has(spec, |p| p.command_line().is_some()), OTHER_PLATFORM),
    at("process.selinuxLabel", |spec| has(spec, |p| text(p.selinux_label())), NO_SELINUX),
    at("linux.mountLabel", |spec| on_linux(spec, |l| text(l.mount_label())), NO_SELINUX),
    among(mapped_mount, NO_IDMAP),
    at(
        "linux.resources.rdma",
        |spec| limits(spec, |r| r.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty())),
        NO_RDMA,
    ),
];

const NO_APPARMOR: &str = "the guest kernel has no AppArmor";
const NO_SCHEDULING: &str = "the guest has vCPUs of its own";
const NO_BLOCK: &str = "the guest has no block device";
const NO_TRAFFIC_CLASS: &str = "there is no net_cls and net_prio in cgroup v2";
const NO_HOST_HARDWARE: &str = "the host's hardware is not the guest's";
const NO_NOTIFY: &str = "a listener on the host cannot inspect a process of the guest";

/// For a microVM.
const NOT_IN_MICROVM: [Rule; 18] = [
    among(
        |spec| missing_namespace(spec, LinuxNamespaceType::Network),
        "the host's network cannot be used from a microVM",
    ),
    among(
        |spec| missing_namespace(spec, LinuxNamespaceType::Pid),
        "the host's processes cannot be seen from a microVM",
    ),
    among(
        |spec| missing_namespace(spec, LinuxNamespaceType::Ipc),
        "the host's shared memory cannot be used from a microVM",
    ),
    among(
        |spec| missing_namespace(spec, LinuxNamespaceType::Uts),
        "the host's name cannot be changed from a microVM",
    ),
    among(joined_namespace, "a namespace of the host cannot be joined from a microVM"),
    among(
        |spec| listed_namespace(spec, LinuxNamespaceType::User),
        "user namespaces in a microVM are not implemented",
    ),
    among(
        |spec| listed_namespace(spec, LinuxNamespaceType::Time),
        "time namespaces in a microVM are not implemented",
    ),
    among(foreign_mount, "only bind, proc, sysfs, tmpfs, devpts, mqueue and cgroup mounts are"),
    at("process.apparmorProfile", |spec| has(spec, |p| text(p.apparmor_profile())), NO_APPARMOR),
    at("process.scheduler", |spec| has(spec, |p| p.scheduler().is_some()), NO_SCHEDULING),
    at("process.ioPriority", |spec| has(spec, |p| p.io_priority().is_some()), NO_SCHEDULING),
    at(
        "process.execCPUAffinity",
        |spec| has(spec, |p| p.exec_cpu_affinity().is_some()),
        NO_SCHEDULING,
    ),
    at("linux.resources.blockIO", |spec| limits(spec, asks_block_io), NO_BLOCK),
    at("linux.resources.network", |spec| limits(spec, asks_traffic_class), NO_TRAFFIC_CLASS),
    at("linux.intelRdt", |spec| on_linux(spec, |l| l.intel_rdt().is_some()), NO_HOST_HARDWARE),
    among(host_hardware, NO_HOST_HARDWARE),
    at("linux.seccomp.listenerPath", |spec| on_linux(spec, asks_listener), NO_NOTIFY),
    at(
        "hooks.createContainer",
        |spec| {
            let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.create_container().as_ref());
            hooks.is_some_and(|hooks| !hooks.is_empty())
        },
        "a program of the host cannot run in the container's namespaces",
    ),
];

/// The first property that a kind of sandbox cannot honour.
#[must_use]
pub fn find_unsupported(spec: &Spec, kind: SandboxKind) -> Option<Unsupported> {
    let own: &[Rule] = match kind {
        SandboxKind::Microvm => &NOT_IN_MICROVM,
        SandboxKind::Namespace => &[],
    };
    NOWHERE.iter().chain(own).find_map(|rule| {
        let path = match rule.find {
            Find::At(path, asked) => asked(spec).then(|| path.to_owned()),
            Find::Among(find) => find(spec),
        };
        path.map(|path| Unsupported { path, kind, reason: rule.reason })
    })
}

/// The first property of a process (the container's, or one of `exec`'s) that a kind of sandbox
/// cannot honour.
#[must_use]
pub fn find_unsupported_process(process: &Process, kind: SandboxKind) -> Option<Unsupported> {
    let mut spec = Spec::default();
    spec.set_process(Some(process.clone()));
    let own: &[Rule] = match kind {
        SandboxKind::Microvm => &NOT_IN_MICROVM,
        SandboxKind::Namespace => &[],
    };
    NOWHERE.iter().chain(own).find_map(|rule| match rule.find {
        Find::At(path, asked) if path.starts_with("process.") && asked(&spec) => {
            Some(Unsupported { path: path.to_owned(), kind, reason: rule.reason })
        }
        Find::At(..) | Find::Among(_) => None,
    })
}

fn has(spec: &Spec, asked: fn(&Process) -> bool) -> bool {
    spec.process().as_ref().is_some_and(asked)
}

fn on_linux(spec: &Spec, asked: fn(&Linux) -> bool) -> bool {
    spec.linux().as_ref().is_some_and(asked)
}

fn limits(spec: &Spec, asked: fn(&LinuxResources) -> bool) -> bool {
    spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()).is_some_and(asked)
}

fn text(value: &Option<String>) -> bool {
    value.as_ref().is_some_and(|text| !text.is_empty())
}

fn list<T>(value: &Option<Vec<T>>) -> bool {
    value.as_ref().is_some_and(|list| !list.is_empty())
}

fn mounts(spec: &Spec) -> &[Mount] {
    spec.mounts().as_deref().unwrap_or_default()
}

fn mapped_mount(spec: &Spec) -> Option<String> {
    let mapped = |mount: &Mount| {
        let options = mount.options().as_deref().unwrap_or_default();
        list(mount.uid_mappings())
            || list(mount.gid_mappings())
            || options.iter().any(|option| option == "idmap" || option == "ridmap")
    };
    let index = mounts(spec).iter().position(mapped)?;
    Some(format!("mounts[{index}].uidMappings"))
}

fn foreign_mount(spec: &Spec) -> Option<String> {
    const KNOWN: [&str; 8] =
        ["bind", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"];
    let known = |mount: &Mount| {
        let options = mount.options().as_deref().unwrap_or_default();
        options.iter().any(|option| option == "bind" || option == "rbind")
            || mount.typ().as_deref().is_some_and(|kind| KNOWN.contains(&kind))
    };
    let index = mounts(spec).iter().position(|mount| !known(mount))?;
    Some(format!("mounts[{index}].type"))
}

fn namespaces(spec: &Spec) -> &[oci_spec::runtime::LinuxNamespace] {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref());
    list.unwrap_or_default()
}

fn missing_namespace(spec: &Spec, kind: LinuxNamespaceType) -> Option<String> {
    let there = namespaces(spec).iter().any(|entry| entry.typ() == kind);
    (!there).then(|| format!("linux.namespaces without {}", namespace_name(kind)))
}

fn listed_namespace(spec: &Spec, kind: LinuxNamespaceType) -> Option<String> {
    let index = namespaces(spec).iter().position(|entry| entry.typ() == kind)?;
    Some(format!("linux.namespaces[{index}] ({})", namespace_name(kind)))
}

fn joined_namespace(spec: &Spec) -> Option<String> {
    let index = namespaces(spec).iter().position(|entry| entry.path().is_some())?;
    Some(format!("linux.namespaces[{index}].path"))
}

fn host_hardware(spec: &Spec) -> Option<String> {
    let linux = spec.linux().as_ref()?;
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Some("linux.netDevices".to_owned());
    }
    linux.memory_policy().as_ref().map(|_| "linux.memoryPolicy".to_owned())
}

fn asks_block_io(resources: &LinuxResources) -> bool {
    resources.block_io().as_ref().is_some_and(|block| {
        block.weight().unwrap_or(0) != 0
            || block.leaf_weight().unwrap_or(0) != 0
            || list(block.weight_device())
            || list(block.throttle_read_bps_device())
            || list(block.throttle_write_bps_device())
            || list(block.throttle_read_iops_device())
            || list(block.throttle_write_iops_device())
    })
}

fn asks_traffic_class(resources: &LinuxResources) -> bool {
    resources
        .network()
        .as_ref()
        .is_some_and(|network| network.class_id().unwrap_or(0) != 0 || list(network.priorities()))
}

fn asks_listener(linux: &Linux) -> bool {
    linux.seccomp().as_ref().is_some_and(|seccomp| seccomp.listener_path().is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The template merged with a part, as JSON merge patch has it.
    fn spec_with(part: &Value) -> Spec {
        fn merge(into: &mut Value, part: &Value) {
            match (into, part) {
                (Value::Object(into), Value::Object(part)) => {
                    for (key, value) in part {
                        merge(into.entry(key).or_insert(Value::Null), value);
                    }
                }
                (into, part) => *into = part.clone(),
            }
        }
        let mut document: Value = serde_json::from_str(crate::spec::template::ROOTFUL).unwrap();
        merge(&mut document, part);
        serde_json::from_value(document).unwrap()
    }

    fn refused(part: &Value, kind: SandboxKind) -> Option<String> {
        find_unsupported(&spec_with(part), kind).map(|unsupported| unsupported.path)
    }

    #[test]
    fn the_template_is_supported_by_both() {
        assert_eq!(refused(&json!({}), SandboxKind::Microvm), None);
        assert_eq!(refused(&json!({}), SandboxKind::Namespace), None);
    }

    #[test]
    fn what_no_kind_can_honour_is_refused_by_its_path() {
        let mapping = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
        let cases = [
            (json!({"windows": {"layerFolders": []}}), "windows"),
            (json!({"process": {"selinuxLabel": "a:b"}}), "process.selinuxLabel"),
            (json!({"linux": {"mountLabel": "a:b"}}), "linux.mountLabel"),
            (
                json!({"mounts": [{"destination": "/a", "type": "bind", "uidMappings": mapping}]}),
                "mounts[0].uidMappings",
            ),
            (
                json!({"linux": {"resources": {"rdma": {"mlx": {"hcaHandles": 1}}}}}),
                "linux.resources.rdma",
            ),
        ];
        for (part, path) in cases {
            for kind in [SandboxKind::Microvm, SandboxKind::Namespace] {
                assert_eq!(refused(&part, kind).as_deref(), Some(path), "{part}");
            }
        }
    }

    #[test]
    fn what_a_microvm_cannot_honour_is_refused_there_only() {
        let namespaces = |list: Value| json!({"linux": {"namespaces": list}});
        let all = |extra: Value| {
            let mut list = json!([
                {"type": "mount"}, {"type": "network"}, {"type": "pid"}, {"type": "ipc"},
                {"type": "uts"}
            ]);
            list.as_array_mut().unwrap().push(extra);
            namespaces(list)
        };
        let cases = [
            (
                namespaces(json!([{"type": "mount"}, {"type": "pid"}])),
                "linux.namespaces without network",
            ),
            (
                namespaces(json!([{"type": "mount"}, {"type": "network"}])),
                "linux.namespaces without pid",
            ),
            (all(json!({"type": "cgroup", "path": "/x"})), "linux.namespaces[5].path"),
            (all(json!({"type": "user"})), "linux.namespaces[5] (user)"),
            (all(json!({"type": "time"})), "linux.namespaces[5] (time)"),
            (json!({"mounts": [{"destination": "/a", "type": "nfs"}]}), "mounts[0].type"),
            (json!({"process": {"apparmorProfile": "docker-default"}}), "process.apparmorProfile"),
            (
                json!({"process": {"ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 1}}}),
                "process.ioPriority",
            ),
            (
                json!({"linux": {"resources": {"blockIO": {"weight": 5}}}}),
                "linux.resources.blockIO",
            ),
            (
                json!({"linux": {"resources": {"network": {"classID": 5}}}}),
                "linux.resources.network",
            ),
            (json!({"linux": {"intelRdt": {"closID": "a"}}}), "linux.intelRdt"),
            (json!({"hooks": {"createContainer": [{"path": "/x"}]}}), "hooks.createContainer"),
        ];
        for (part, path) in cases {
            assert_eq!(refused(&part, SandboxKind::Microvm).as_deref(), Some(path), "{part}");
            assert_eq!(refused(&part, SandboxKind::Namespace), None, "{part}");
        }
    }

    #[test]
    fn empty_values_ask_for_nothing() {
        let part = json!({
            "process": {"apparmorProfile": "", "selinuxLabel": ""},
            "linux": {"resources": {"blockIO": {"weight": 0}, "network": {"priorities": []}}},
            "hooks": {"createContainer": []}
        });
        assert_eq!(refused(&part, SandboxKind::Microvm), None);
    }

    #[test]
    fn a_process_of_exec_is_held_to_the_same_table() {
        let spec = spec_with(&json!({"process": {"apparmorProfile": "x"}}));
        let process = spec.process().as_ref().unwrap();
        let found = |kind| find_unsupported_process(process, kind).map(|found| found.path);
        assert_eq!(found(SandboxKind::Microvm).as_deref(), Some("process.apparmorProfile"));
        assert_eq!(found(SandboxKind::Namespace), None);
    }
}
