//! Pods: containers that share one machine, as engines say it in annotations.
//!
//! The first of a pod is its sandbox: the machine is made for it and ends with it. The others are
//! members, each with its own root file system, processes, users and limits; network and, as the
//! engine names them, IPC and host name are the sandbox's.
//!
//! An annotation alone gets nobody into another's machine: a member's network namespace is the
//! sandbox's, which only the engine can give it.

use std::path::{Path, PathBuf};

use cofferdam_protocol::id::ContainerId;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, LinuxResources, Spec};
use serde::{Deserialize, Serialize};

use super::{MachineSize, Refusal, RunningVm, announcement};

const MIB: u64 = 1 << 20;
/// The period of the CPU controller where the configuration says none, in microseconds.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// Names the sandbox, in any engine: a container that names itself is one.
pub const ANNOTATION: &str = "dev.cofferdam.sandbox";

/// What engines write: which kind of container it is, and which its sandbox.
const OF_ENGINES: [(&str, &str); 2] = [
    (announcement::KIND, "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
];

/// Podman's own. It names the members of a pod, and its sandbox is a container like any other.
const MANAGER: &str = "io.container.manager";
const LIBPOD: &str = "libpod";

const NETWORK_PATH: &str = "linux.namespaces[].path of network";
const OTHER_NETWORK: &str = "a container of a pod has the pod's network namespace, and no other";
const OF_NAMESPACES: &str = "it is the network namespace of containers that are not in a microVM, and one would \
                             take its interfaces from them";
const NO_NUMBER: &str = "it is told the number of the container's process, which nobody knows before it \
                         is born among its pod's processes";
const OTHER_OWNER: &str = "a container with a user namespace of its own may not see its pod's processes: the \
                           kernel gives it no /proc of theirs";
const OWN_DEVICES: &str = "a pod's network interfaces are its sandbox's";

/// A container's part in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodRole {
    /// The machine is made for it; others may join.
    Sandbox,
    /// It joins the machine of this container.
    Member(ContainerId),
}

/// An annotation about pods that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPodRole {
    /// Neither of the two.
    #[error("The annotation {key} is {value:?}: sandbox or container are possible")]
    Kind {
        /// Which annotation.
        key: &'static str,
        /// What it says.
        value: String,
    },
    /// No container's id.
    #[error("The annotation {key} is {value:?}, which is no container's id")]
    Sandbox {
        /// Which annotation.
        key: &'static str,
        /// What it says; empty when it is not there.
        value: String,
    },
}

/// A container's part in a pod, if it has one.
///
/// # Errors
/// When an annotation makes no sense.
pub fn role(spec: &Spec, own: &ContainerId) -> Result<Option<PodRole>, InvalidPodRole> {
    let of = |key: &str| spec.annotations().as_ref()?.get(key).map(String::as_str);
    let member = |key, value: Option<&str>| {
        let value = value.unwrap_or_default();
        let id = value.parse().map_err(|_| InvalidPodRole::Sandbox { key, value: value.into() });
        id.map(|id| if id == *own { PodRole::Sandbox } else { PodRole::Member(id) })
    };
    if let Some(value) = of(ANNOTATION) {
        return member(ANNOTATION, Some(value)).map(Some);
    }
    for (key, sandbox) in OF_ENGINES {
        match of(key) {
            None => {}
            Some(announcement::SANDBOX) => return Ok(Some(PodRole::Sandbox)),
            Some("container") => return member(sandbox, of(sandbox)).map(Some),
            Some(other) => return Err(InvalidPodRole::Kind { key, value: other.to_owned() }),
        }
    }
    let manager = of(MANAGER);
    Ok((manager == Some(LIBPOD)).then_some(PodRole::Sandbox))
}

/// Whether somebody forwards ports to a pod: Kubernetes' engines do it to the loopback interface of its
/// network namespace on the host, and who makes one by hand may. Podman does not.
#[must_use]
pub fn forwards_ports(sandbox: &Spec) -> bool {
    let has = |key: &str| sandbox.annotations().as_ref().is_some_and(|all| all.contains_key(key));
    has(ANNOTATION) || OF_ENGINES.iter().any(|(kind, _)| has(kind))
}

/// The network namespace that a container is given, if it is given one.
#[must_use]
pub fn network(spec: &Spec) -> Option<&Path> {
    let mut namespaces = spec.linux().as_ref()?.namespaces().iter().flatten();
    let network = namespaces.find(|entry| entry.typ() == LinuxNamespaceType::Network)?;
    network.path().as_deref().filter(|path| !path.as_os_str().is_empty())
}

/// Why a container that is given the network of others who are in namespaces cannot be in a microVM.
#[must_use]
pub fn network_of_namespaces() -> Refusal {
    Refusal { field: NETWORK_PATH.to_owned(), reason: OF_NAMESPACES }
}

/// What is known of a pod's sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSandbox {
    /// Its process on the host.
    pub pid: i32,
    /// Its network namespace, where its configuration names one.
    pub network: Option<PathBuf>,
}

/// A member's configuration, as it is in the sandbox's machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// What it shares is named no more, but for the network.
    pub spec: Spec,
    /// It has the sandbox's IPC namespace.
    pub ipc: bool,
    /// It has the sandbox's host name.
    pub uts: bool,
    /// It sees the sandbox's processes, and they see it.
    pub pid: bool,
}

/// What a container shares with its pod's sandbox. A path that is another's is left, for
/// [`super::unsupported`] to refuse.
///
/// # Errors
/// When it has another network than its sandbox, or cannot have the sandbox's processes.
pub fn join(spec: &Spec, sandbox: &PodSandbox) -> Result<Joined, Refusal> {
    let mut joined = Joined { spec: spec.clone(), ipc: false, uts: false, pid: false };
    let linux = joined.spec.linux_mut().get_or_insert_default();
    let refusal = |field: &str, reason| Err(Refusal { field: field.to_owned(), reason });
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return refusal("linux.netDevices", OWN_DEVICES);
    }
    let mut has_network = false;
    for namespace in linux.namespaces_mut().iter_mut().flatten() {
        let (path, kind) = (namespace.path().clone().unwrap_or_default(), namespace.typ());
        match kind {
            LinuxNamespaceType::Network => has_network = sandbox.is_network(&path),
            LinuxNamespaceType::Ipc if path == sandbox.of_process("ipc") => {
                joined.ipc = clear_path(namespace);
            }
            LinuxNamespaceType::Uts if path == sandbox.of_process("uts") => {
                joined.uts = clear_path(namespace);
            }
            LinuxNamespaceType::Pid if path == sandbox.of_process("pid") => {
                joined.pid = clear_path(namespace);
            }
            _ => {}
        }
    }
    if !has_network {
        return refusal(NETWORK_PATH, OTHER_NETWORK);
    }
    if joined.pid && has_start_hooks(&joined.spec) {
        return refusal("hooks.startContainer", NO_NUMBER);
    }
    if joined.pid && has_own_users(&joined.spec) {
        return refusal("linux.namespaces[].path of pid", OTHER_OWNER);
    }
    Ok(joined)
}

fn has_start_hooks(spec: &Spec) -> bool {
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_ref());
    hooks.is_some_and(|hooks| !hooks.is_empty())
}

fn has_own_users(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let mut namespaces = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

fn clear_path(namespace: &mut LinuxNamespace) -> bool {
    namespace.set_path(None);
    true
}

impl PodSandbox {
    fn of_process(&self, kind: &str) -> PathBuf {
        format!("/proc/{}/ns/{kind}", self.pid).into()
    }

    fn is_network(&self, path: &Path) -> bool {
        self.network.as_deref() == Some(path) || path == self.of_process("net")
    }
}

/// What a member's limits take of the machine. What has no limit takes what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demand {
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Processor time, in thousandths of a processor.
    pub cpu_thousandths: u64,
}

/// The members' limits together are more than the machine can grow to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "The memory limits of the pod's containers are {wanted_mib} MiB together, and its machine has room \
     for {room_mib} MiB: give the pod's sandbox a larger one"
)]
pub struct PodTooLarge {
    wanted_mib: u64,
    room_mib: u64,
}

impl Demand {
    /// That of a container with these limits.
    #[must_use]
    pub fn of(spec: &Spec) -> Self {
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        resources.map_or_else(Self::default, |limits| Self::default().changed_by(limits))
    }

    /// That of a container whose limits are others now; those that are not said stay.
    #[must_use]
    pub fn changed_by(self, limits: &LinuxResources) -> Self {
        let amount = |said: i64| u64::try_from(said).unwrap_or(0);
        let cpu = limits.cpu().clone().unwrap_or_default();
        let period = cpu.period().filter(|period| *period > 0).unwrap_or(DEFAULT_PERIOD_US);
        let thousandths = |quota| amount(quota).saturating_mul(1000).div_ceil(period);
        let memory = limits.memory().unwrap_or_default().limit();
        Self {
            memory_mib: memory.map_or(self.memory_mib, |limit| amount(limit).div_ceil(MIB)),
            cpu_thousandths: cpu.quota().map_or(self.cpu_thousandths, thousandths),
        }
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            cpu_thousandths: self.cpu_thousandths.saturating_add(other.cpu_thousandths),
        }
    }

    /// The machine's size for it. A limit of processor time is no promise: beyond what the machine
    /// can have, all of it is as much as there is.
    ///
    /// # Errors
    /// When it cannot grow so far.
    pub fn size_of(self, vm: &RunningVm) -> Result<MachineSize, PodTooLarge> {
        let too_large = PodTooLarge { wanted_mib: self.memory_mib, room_mib: vm.room_mib() };
        let vcpus = u8::try_from(self.cpu_thousandths.div_ceil(1000)).unwrap_or(u8::MAX);
        Ok(MachineSize {
            memory_blocks: vm.blocks_for(self.memory_mib).ok_or(too_large)?,
            vcpus: vcpus.clamp(vm.vcpus, vm.vcpus_max),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::unsupported;
    use super::*;

    fn own() -> ContainerId {
        "own".parse().unwrap()
    }

    fn annotated(annotations: Value) -> Spec {
        serde_json::from_value(json!({ "ociVersion": "1.2.0", "annotations": annotations }))
            .unwrap()
    }

    fn with_namespaces(namespaces: Value) -> Spec {
        let linux = json!({ "namespaces": namespaces });
        serde_json::from_value(json!({ "ociVersion": "1.2.0", "linux": linux })).unwrap()
    }

    fn sandbox() -> PodSandbox {
        PodSandbox { pid: 7, network: Some("/run/netns/pod".into()) }
    }

    #[test]
    fn ports_are_forwarded_to_pods_of_kubernetes_and_to_those_made_by_hand() {
        let forwards = |annotations| forwards_ports(&annotated(annotations));
        assert!(forwards(json!({ "io.kubernetes.cri.container-type": "sandbox" })));
        assert!(forwards(json!({ "io.kubernetes.cri-o.ContainerType": "sandbox" })));
        assert!(forwards(json!({ ANNOTATION: "own" })));
        assert!(!forwards(json!({ MANAGER: LIBPOD })));
        assert!(!forwards_ports(&Spec::default()));
    }

    #[test]
    fn engines_annotations_say_who_is_a_sandbox_and_who_joins_which() {
        let role = |annotations| role(&annotated(annotations), &own()).unwrap();
        let member = Some(PodRole::Member("box".parse().unwrap()));
        assert_eq!(role(json!({})), None);
        let (kind, id) = ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id");
        assert_eq!(role(json!({ kind: "sandbox", id: "own" })), Some(PodRole::Sandbox));
        assert_eq!(role(json!({ kind: "container", id: "box" })), member);
        let (kind, id) = ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID");
        assert_eq!(role(json!({ kind: "sandbox" })), Some(PodRole::Sandbox));
        assert_eq!(role(json!({ kind: "container", id: "box" })), member);
        assert_eq!(role(json!({ kind: "container", id: "box", MANAGER: LIBPOD })), member);
        assert_eq!(role(json!({ MANAGER: LIBPOD })), Some(PodRole::Sandbox));
        assert_eq!(role(json!({ ANNOTATION: "own" })), Some(PodRole::Sandbox));
        assert_eq!(role(json!({ ANNOTATION: "box" })), member);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let said = |annotations| role(&annotated(annotations), &own()).unwrap_err().to_string();
        let kind = "io.kubernetes.cri.container-type";
        assert!(said(json!({ kind: "pod" })).contains("sandbox or container"));
        assert!(said(json!({ kind: "container" })).contains("io.kubernetes.cri.sandbox-id"));
        assert!(said(json!({ ANNOTATION: "../x" })).contains("no container's id"));
    }

    #[test]
    fn what_is_the_sandboxs_is_shared_and_the_rest_is_left() {
        let spec = with_namespaces(json!([
            { "type": "network", "path": "/run/netns/pod" },
            { "type": "ipc", "path": "/proc/7/ns/ipc" },
            { "type": "uts", "path": "/proc/8/ns/uts" },
            { "type": "pid" },
        ]));
        let joined = join(&spec, &sandbox()).unwrap();
        assert_eq!((joined.ipc, joined.uts, joined.pid), (true, false, false));
        let linux = joined.spec.linux().clone().unwrap();
        let paths: Vec<_> =
            linux.namespaces().iter().flatten().map(|entry| entry.path().clone()).collect();
        assert_eq!(paths[1], None);
        assert_eq!(paths[2], Some("/proc/8/ns/uts".into()));
    }

    fn with_processes(pid: &str, others: &[&str]) -> Spec {
        let mut namespaces = vec![
            json!({ "type": "network", "path": "/run/netns/pod" }),
            json!({ "type": "pid", "path": pid }),
        ];
        namespaces.extend(others.iter().map(|kind| json!({ "type": kind })));
        with_namespaces(Value::Array(namespaces))
    }

    #[test]
    fn the_sandboxs_processes_are_shared_and_no_others() {
        let joined = |path| join(&with_processes(path, &[]), &sandbox()).unwrap();
        let is_refused = |spec| {
            let mut refused = unsupported(spec).into_iter();
            refused.any(|refusal| refusal.field == "linux.namespaces[1].path")
        };
        let (own, other) = (joined("/proc/7/ns/pid"), joined("/proc/8/ns/pid"));
        assert_eq!((own.pid, is_refused(&own.spec)), (true, false));
        assert_eq!((other.pid, is_refused(&other.spec)), (false, true));
    }

    #[test]
    fn shared_processes_are_refused_where_something_would_be_wrong() {
        let mut spec = with_processes("/proc/7/ns/pid", &[]);
        let hooks = json!({ "startContainer": [{ "path": "/bin/true" }] });
        spec.set_hooks(serde_json::from_value(hooks).unwrap());
        assert_eq!(join(&spec, &sandbox()).unwrap_err().reason, NO_NUMBER);
        let spec = with_processes("/proc/7/ns/pid", &["user"]);
        assert_eq!(join(&spec, &sandbox()).unwrap_err().reason, OTHER_OWNER);
    }

    #[test]
    fn another_network_is_refused() {
        for network in [
            json!([]),
            json!([{ "type": "network" }]),
            json!([{ "type": "network", "path": "/run/netns/other" }]),
            json!([{ "type": "network", "path": "/proc/8/ns/net" }]),
        ] {
            let refused = join(&with_namespaces(network), &sandbox()).unwrap_err();
            assert_eq!(refused.reason, OTHER_NETWORK);
        }
        let own = json!([{ "type": "network", "path": "/proc/7/ns/net" }]);
        assert!(join(&with_namespaces(own), &sandbox()).is_ok());
    }

    #[test]
    fn limits_add_up_and_the_machine_grows_with_them() {
        let limited = |memory: u64, quota: i64| {
            let resources =
                json!({ "memory": { "limit": memory << 20 }, "cpu": { "quota": quota } });
            let linux = json!({ "linux": { "resources": resources }, "ociVersion": "1.2.0" });
            Demand::of(&serde_json::from_value(linux).unwrap())
        };
        assert_eq!(Demand::of(&annotated(json!({}))), Demand::default());
        let both = limited(100, 50_000).and(limited(200, 100_000));
        assert_eq!(both, Demand { memory_mib: 300, cpu_thousandths: 1500 });
        let size = MachineSize { memory_blocks: 0, vcpus: 1 };
        let vm = RunningVm {
            vcpus: 1,
            vcpus_max: 4,
            memory_mib: 178,
            memory_blocks_max: 3,
            overhead_mib: 48,
            size,
        };
        assert_eq!(Demand::default().size_of(&vm), Ok(size));
        assert_eq!(both.size_of(&vm), Ok(MachineSize { memory_blocks: 2, vcpus: 2 }));
        let error = limited(10_000, -1).size_of(&vm).unwrap_err().to_string();
        assert!(error.contains("10000 MiB together"), "{error}");
    }
}
