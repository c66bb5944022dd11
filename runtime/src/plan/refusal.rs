//! What a microVM cannot serve today, by the field's JSON path, each with the reason.
//!
//! `isolation = microvm` refuses a configuration with any of it; `auto` takes namespaces instead
//! and gives these reasons. What is simply wrong (in either isolation) is not here.

use std::fmt::Write as _;
use std::path::Path;

use oci_spec::runtime::{
    Hooks, Linux, LinuxCpu, LinuxNamespaceType, LinuxResources, LinuxSeccomp, LinuxSeccompAction,
    Process, Spec,
};

use super::{devices, mounts};
use crate::spec::fields::{
    FOREIGN_MOUNT, HOST_HARDWARE, HOST_LISTENER, HOST_NETWORK, HOST_PROGRAM, JOINING,
    NO_PERSONALITY_FLAGS, NO_SECURITY_MODULE, NOT_IN_VERSION_TWO, OTHER_PAGES, OTHER_PLATFORM,
    OWN_KERNEL,
};

/// One field that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Refusal {
    /// The path in `config.json`: `linux.namespaces[2].path`.
    pub field: String,
    /// Why not.
    pub reason: &'static str,
}

/// Every field of the configuration that a microVM cannot serve. Empty: it can be run in one.
#[must_use]
pub fn unsupported(spec: &Spec) -> Vec<Refusal> {
    let mut found = Found(Vec::new());
    if let Some(process) = spec.process() {
        refuse_process(&mut found, process);
    }
    if let Some(hooks) = spec.hooks() {
        refuse_hooks(&mut found, hooks);
    }
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let foreign = !mounts::in_every_guest(mount);
        found.add_if(foreign, || format!("mounts[{index}].type"), FOREIGN_MOUNT);
    }
    match spec.linux() {
        Some(linux) => refuse_linux(&mut found, linux),
        None => refuse_namespaces(&mut found, &Linux::default()),
    }
    found.0
}

/// A network namespace by a path that leads to the host's own.
#[must_use]
pub fn hosts_network(spec: &Spec, is_hosts: impl Fn(&Path) -> bool) -> Vec<Refusal> {
    let mut found = Found(Vec::new());
    let linux = spec.linux().as_ref();
    let list = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    for (index, namespace) in list.iter().enumerate() {
        let is_network = namespace.typ() == LinuxNamespaceType::Network;
        let there = is_network && namespace.path().as_deref().is_some_and(&is_hosts);
        found.add_if(there, || format!("linux.namespaces[{index}].path"), HOST_NETWORK);
    }
    found.0
}

/// As [`unsupported`], for one more process.
pub(super) fn unsupported_process(process: &Process) -> Vec<Refusal> {
    let mut found = Found(Vec::new());
    refuse_process(&mut found, process);
    found.0
}

/// As [`unsupported`], for other limits.
pub(super) fn unsupported_resources(resources: &LinuxResources) -> Vec<Refusal> {
    let mut found = Found(Vec::new());
    refuse_resources(&mut found, resources);
    let mems = resources.cpu().as_ref().and_then(|cpu| cpu.mems().as_deref());
    let placed = "the guest's memory has had its place since the container was created";
    found.add(says_something(mems), "linux.resources.cpu.mems", placed);
    found.0
}

/// All refusals as one message.
pub(super) fn list(refusals: &[Refusal]) -> String {
    let mut text = String::from("Not possible in a microVM");
    for (position, Refusal { field, reason }) in refusals.iter().enumerate() {
        let separator = if position == 0 { ": " } else { "; " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{field} ({reason})");
    }
    text
}

struct Found(Vec<Refusal>);

impl Found {
    fn add_if(&mut self, is_there: bool, field: impl FnOnce() -> String, reason: &'static str) {
        if is_there {
            self.0.push(Refusal { field: field(), reason });
        }
    }

    fn add(&mut self, is_there: bool, field: &str, reason: &'static str) {
        self.add_if(is_there, || field.to_owned(), reason);
    }
}

fn says_something(text: Option<&str>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

fn refuse_process(found: &mut Found, process: &Process) {
    found.add(
        says_something(process.apparmor_profile().as_deref()),
        "process.apparmorProfile",
        NO_SECURITY_MODULE,
    );
    found.add(
        says_something(process.selinux_label().as_deref()),
        "process.selinuxLabel",
        NO_SECURITY_MODULE,
    );
    let command_line = says_something(process.command_line().as_deref());
    found.add(command_line, "process.commandLine", OTHER_PLATFORM);
}

fn refuse_hooks(found: &mut Found, hooks: &Hooks) {
    let there = hooks.create_container().as_ref().is_some_and(|hooks| !hooks.is_empty());
    found.add(there, "hooks.createContainer", HOST_PROGRAM);
}

fn refuse_linux(found: &mut Found, linux: &Linux) {
    refuse_namespaces(found, linux);
    refuse_devices(found, linux);
    let some = |there: bool| there;
    found.add(some(linux.intel_rdt().is_some()), "linux.intelRdt", HOST_HARDWARE);
    let flags = linux.personality().as_ref().and_then(|personality| personality.flags().as_ref());
    let flags = flags.is_some_and(|flags| !flags.is_empty());
    found.add(flags, "linux.personality.flags", NO_PERSONALITY_FLAGS);
    let label = says_something(linux.mount_label().as_deref());
    found.add(label, "linux.mountLabel", NO_SECURITY_MODULE);
    if let Some(resources) = linux.resources() {
        refuse_resources(found, resources);
    }
    if let Some(seccomp) = linux.seccomp() {
        refuse_listener(found, seccomp);
    }
}

fn refuse_listener(found: &mut Found, seccomp: &LinuxSeccomp) {
    let notify = LinuxSeccompAction::ScmpActNotify;
    let default = seccomp.default_action() == notify;
    found.add(default, "linux.seccomp.defaultAction", HOST_LISTENER);
    for (index, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        let name = || format!("linux.seccomp.syscalls[{index}].action");
        found.add_if(rule.action() == notify, name, HOST_LISTENER);
    }
}

/// A namespace that the spec leaves out is the host's. A cgroup namespace is given all the same: what
/// it shows is the guest's own.
fn refuse_namespaces(found: &mut Found, linux: &Linux) {
    let list = linux.namespaces().as_deref().unwrap_or_default();
    for (index, namespace) in list.iter().enumerate() {
        let path = namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
        let foreign = path && namespace.typ() != LinuxNamespaceType::Network;
        found.add_if(foreign, || format!("linux.namespaces[{index}].path"), JOINING);
    }
    let lacks = |typ| list.iter().all(|namespace| namespace.typ() != typ);
    let network = lacks(LinuxNamespaceType::Network);
    found.add(network, "linux.namespaces without network", HOST_NETWORK);
    found.add(lacks(LinuxNamespaceType::Mount), "linux.namespaces without mount", OWN_KERNEL);
    found.add(lacks(LinuxNamespaceType::Pid), "linux.namespaces without pid", OWN_KERNEL);
    found.add(lacks(LinuxNamespaceType::Ipc), "linux.namespaces without ipc", OWN_KERNEL);
    found.add(lacks(LinuxNamespaceType::Uts), "linux.namespaces without uts", OWN_KERNEL);
}

fn refuse_devices(found: &mut Found, linux: &Linux) {
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let foreign = !devices::can_be_in_guest(device);
        found.add_if(foreign, || format!("linux.devices[{index}]"), HOST_HARDWARE);
    }
}

fn refuse_resources(found: &mut Found, resources: &LinuxResources) {
    if let Some(cpu) = resources.cpu() {
        refuse_cpu(found, cpu);
    }
    let memory = resources.memory().as_ref();
    let no_killer = memory.and_then(|memory| memory.disable_oom_killer()).unwrap_or(false);
    found.add(no_killer, "linux.resources.memory.disableOOMKiller", NOT_IN_VERSION_TWO);
    let network = resources.network().as_ref().is_some_and(|network| {
        network.class_id().is_some_and(|id| id != 0)
            || network.priorities().as_ref().is_some_and(|list| !list.is_empty())
    });
    found.add(network, "linux.resources.network", NOT_IN_VERSION_TWO);
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let foreign = !matches!(limit.page_size().as_str(), "2MB" | "1GB");
        let name =
            || format!("linux.resources.hugepageLimits[{index}].pageSize {}", limit.page_size());
        found.add_if(foreign, name, OTHER_PAGES);
    }
    let rdma = resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty());
    found.add(rdma, "linux.resources.rdma", HOST_HARDWARE);
}

fn refuse_cpu(found: &mut Found, cpu: &LinuxCpu) {
    let runtime = cpu.realtime_runtime().is_some_and(|runtime| runtime != 0);
    found.add(runtime, "linux.resources.cpu.realtimeRuntime", NOT_IN_VERSION_TWO);
    let period = cpu.realtime_period().is_some_and(|period| period != 0);
    found.add(period, "linux.resources.cpu.realtimePeriod", NOT_IN_VERSION_TWO);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACES: &str =
        r#"{"type":"mount"},{"type":"network"},{"type":"pid"},{"type":"ipc"},{"type":"uts"}"#;

    fn refused(spec: &str) -> Vec<String> {
        let spec = serde_json::from_str(spec).unwrap();
        unsupported(&spec).into_iter().map(|refusal| refusal.field).collect()
    }

    fn refused_linux(more: &str) -> Vec<String> {
        refused(&format!(
            r#"{{"ociVersion":"1.0.2","linux":{{"namespaces":[{NAMESPACES}]{more}}}}}"#
        ))
    }

    #[test]
    fn an_ordinary_container_is_served() {
        assert_eq!(refused_linux(""), [""; 0]);
    }

    #[test]
    fn the_hosts_namespaces_are_refused_by_name() {
        assert_eq!(
            refused(r#"{"ociVersion":"1.0.2","linux":{"namespaces":[{"type":"cgroup"}]}}"#),
            [
                "linux.namespaces without network",
                "linux.namespaces without mount",
                "linux.namespaces without pid",
                "linux.namespaces without ipc",
                "linux.namespaces without uts",
            ]
        );
        let joined = refused(
            r#"{"ociVersion":"1.0.2","linux":{"namespaces":[{"type":"pid"},{"type":"ipc"},
                {"type":"uts"},{"type":"mount"},{"type":"network","path":"/run/netns/a"}]}}"#,
        );
        assert_eq!(joined, [""; 0]);
        let joined = refused(
            r#"{"ociVersion":"1.0.2","linux":{"namespaces":[{"type":"network"},{"type":"pid"},
                {"type":"ipc","path":"/proc/7/ns/ipc"},{"type":"uts"},{"type":"mount"}]}}"#,
        );
        assert_eq!(joined, ["linux.namespaces[2].path"]);
    }

    #[test]
    fn a_path_that_leads_to_the_hosts_network_is_refused() {
        let spec = r#"{"ociVersion":"1.0.2","linux":{"namespaces":[{"type":"pid","path":"/host"},
            {"type":"network","path":"/host"},{"type":"network","path":"/other"}]}}"#;
        let spec = serde_json::from_str(spec).unwrap();
        let refused = hosts_network(&spec, |path| path == Path::new("/host"));
        let expected =
            Refusal { field: "linux.namespaces[1].path".to_owned(), reason: HOST_NETWORK };
        assert_eq!(refused, [expected]);
    }

    #[test]
    fn a_mount_that_no_guest_has_is_refused_by_its_index() {
        let mounts = r#"{"ociVersion":"1.0.2","mounts":[{"destination":"/a","type":"tmpfs"},
            {"destination":"/b","type":"nfs"},{"destination":"/c","options":["rbind"]}]}"#;
        assert!(refused(mounts).contains(&"mounts[1].type".to_owned()));
        assert!(!refused(mounts).iter().any(|field| field == "mounts[0].type"));
        assert!(!refused(mounts).iter().any(|field| field == "mounts[2].type"));
    }

    #[test]
    fn hardware_of_the_host_is_refused_and_its_disks_are_not() {
        let devices = r#","devices":[{"path":"/dev/fuse","type":"c","major":10,"minor":229},
            {"path":"/dev/dri/card0","type":"c","major":226,"minor":0},
            {"path":"/dev/sda","type":"b","major":8,"minor":0}]"#;
        assert_eq!(refused_linux(devices), ["linux.devices[1]"]);
        let block = r#","resources":{"blockIO":{"weight":10,"throttleReadBpsDevice":[
            {"major":8,"minor":0,"rate":1}]}}"#;
        assert_eq!(refused_linux(block), [""; 0]);
    }

    #[test]
    fn what_engines_write_without_meaning_it_is_served() {
        let resources = r#","resources":{"blockIO":{"weight":0},"memory":{"disableOOMKiller":false,
            "swappiness":60},"cpu":{"realtimeRuntime":0,"mems":""},"network":{"classID":0}}"#;
        assert_eq!(refused_linux(resources), [""; 0]);
    }

    #[test]
    fn every_field_is_in_the_message() {
        let refusals = [
            Refusal { field: "a".to_owned(), reason: "x" },
            Refusal { field: "b".to_owned(), reason: "y" },
        ];
        assert_eq!(list(&refusals), "Not possible in a microVM: a (x); b (y)");
    }
}
