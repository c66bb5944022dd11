//! A pod, as CRI describes it, as the configuration of its sandbox's container, and what its other
//! containers' configurations get of the sandbox.
//!
//! Where containerd has the shim make sandboxes, nobody else writes these: containerd's own sandboxes
//! are made of a pause image by it, and ours of the same settings, without an image.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::cri::{NamespaceMode, NamespaceOption, PodSandboxConfig};
use crate::pod_files::PodFiles;

/// Where the sandbox's program lies inside.
pub(crate) const PAUSE: &str = "/pause";

/// By which a container says whose sandbox it is in.
pub(crate) const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// What a pod asks for and cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PodError {
    /// Its mapping is known to containerd alone.
    #[error(
        "The pod has a user namespace of its own (userns_options), which a sandbox of the shim's cannot have: use containerd's sandboxer podsandbox for it"
    )]
    Users,
    /// Which label its shared memory and its process get is containerd's to say.
    #[error(
        "The pod has an SELinux label of its own (selinux_options), which a sandbox of the shim's cannot have: use containerd's sandboxer podsandbox for it"
    )]
    Label,
    /// A network is what makes containers one pod.
    #[error(
        "The pod has a network of its own and there is no network namespace for it (netns_path is empty)"
    )]
    Network,
}

/// A pod's sandbox, as it is asked for.
#[derive(Debug)]
pub(crate) struct SandboxPlan<'a> {
    /// Its name.
    pub(crate) id: &'a str,
    /// What CRI says.
    pub(crate) pod: &'a PodSandboxConfig,
    /// Its network namespace; empty: the host's.
    pub(crate) network: &'a str,
    /// What whoever asks for it writes on it.
    pub(crate) annotations: &'a BTreeMap<String, String>,
    /// Whether control groups are systemd's to make.
    pub(crate) systemd: bool,
    /// The program that waits inside.
    pub(crate) program: &'a Path,
    /// Whether the host's kernel looks at labels: where it does not, nobody has one.
    pub(crate) has_selinux: bool,
}

impl SandboxPlan<'_> {
    /// The configuration of its container.
    ///
    /// # Errors
    /// What it cannot have.
    pub(crate) fn config(&self) -> Result<Value, PodError> {
        if self.has_selinux && self.pod.linux.security_context.selinux_options.is_some() {
            return Err(PodError::Label);
        }
        let mut config = json!({
            "ociVersion": "1.1.0",
            "root": { "path": "rootfs", "readonly": true },
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": [PAUSE, "-pause"],
                "cwd": "/",
                "capabilities": {},
                "noNewPrivileges": true,
            },
            "mounts": [
                { "destination": PAUSE, "type": "bind", "source": self.program,
                  "options": ["bind", "ro", "nosuid", "nodev"] },
                { "destination": "/proc", "type": "proc", "source": "proc",
                  "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                  "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            ],
            "annotations": self.annotations(),
            "linux": {
                "namespaces": self.namespaces()?,
                "sysctl": self.pod.linux.sysctls.iter().collect::<BTreeMap<_, _>>(),
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            },
        });
        if let Some(path) = self.group() {
            config["linux"]["cgroupsPath"] = path.into();
        }
        if !self.has_hosts_network() && !self.pod.hostname.is_empty() {
            config["hostname"] = self.pod.hostname.clone().into();
        }
        Ok(config)
    }

    fn options(&self) -> &NamespaceOption {
        &self.pod.linux.security_context.namespace_options
    }

    fn has_hosts_network(&self) -> bool {
        self.options().network == NamespaceMode::NODE.into()
    }

    /// As containerd's own sandboxes have them: with the host's network comes the host's name.
    fn namespaces(&self) -> Result<Vec<Value>, PodError> {
        let options = self.options();
        let users = options.userns_options.as_ref();
        if users.is_some_and(|users| users.mode != NamespaceMode::NODE.into()) {
            return Err(PodError::Users);
        }
        let mut namespaces = vec![json!({ "type": "mount" })];
        match (self.has_hosts_network(), self.network.is_empty()) {
            (true, _) => {}
            (false, true) => return Err(PodError::Network),
            (false, false) => {
                namespaces.push(json!({ "type": "network", "path": self.network }));
                namespaces.push(json!({ "type": "uts" }));
            }
        }
        for (mode, kind) in [(options.pid, "pid"), (options.ipc, "ipc")] {
            if mode != NamespaceMode::NODE.into() {
                namespaces.push(json!({ "type": kind }));
            }
        }
        Ok(namespaces)
    }

    /// Below the pod's own: of systemd's names the slice's last counts.
    fn group(&self) -> Option<String> {
        let parent = &self.pod.linux.cgroup_parent;
        match (parent.is_empty(), self.systemd) {
            (true, _) => None,
            (false, false) => Some(format!("{}/{}", parent.trim_end_matches('/'), self.id)),
            (false, true) => {
                let slice = parent.rsplit('/').next().unwrap_or_default();
                Some(format!("{slice}:cri-containerd:{}", self.id))
            }
        }
    }

    /// A tenant's own are not among them: which of those count is for the operator to say, in
    /// containerd's settings, which the shim does not see.
    fn annotations(&self) -> BTreeMap<String, String> {
        let (pod, mut all) = (self.pod, self.annotations.clone());
        let mut set = |key: &str, value: String| {
            all.insert(format!("io.kubernetes.cri.{key}"), value);
        };
        set("container-type", "sandbox".to_owned());
        set("sandbox-id", self.id.to_owned());
        for (key, value) in [
            ("sandbox-name", &pod.metadata.name),
            ("sandbox-namespace", &pod.metadata.namespace),
            ("sandbox-uid", &pod.metadata.uid),
        ] {
            set(key, value.clone());
        }
        if let Some(limits) = pod.linux.resources.as_ref() {
            set("sandbox-cpu-period", limits.cpu_period.to_string());
            set("sandbox-cpu-quota", limits.cpu_quota.to_string());
            set("sandbox-memory", limits.memory_limit_in_bytes.to_string());
        }
        all
    }
}

/// Whether a container is in a sandbox.
pub(crate) fn is_member(config: &Value, sandbox: &str) -> bool {
    config.pointer("/annotations").and_then(|all| all.get(SANDBOX_ID)) == Some(&sandbox.into())
}

/// Gives a container what it shares with its pod beside namespaces, where its configuration has
/// nothing else there: containerd leaves this to who makes the sandbox.
pub(crate) fn share(config: &mut Value, files: &PodFiles) {
    let is_read_only = config.pointer("/root/readonly") == Some(&true.into());
    let has_hosts_ipc = !has_namespace(config, "ipc");
    let mode = if is_read_only { "ro" } else { "rw" };
    let Some(mounts) = config.get_mut("mounts").and_then(Value::as_array_mut) else { return };
    for (destination, source) in [
        ("/etc/hostname", files.hostname()),
        ("/etc/hosts", files.hosts()),
        ("/etc/resolv.conf", files.resolv_conf()),
    ] {
        if !mounts.iter().any(|one| one["destination"] == destination) {
            mounts.push(json!({ "destination": destination, "type": "bind", "source": source,
                                "options": ["rbind", "rprivate", mode] }));
        }
    }
    let is_memory = |one: &Value| one["destination"] == "/dev/shm";
    if has_hosts_ipc || mounts.iter().any(|one| is_memory(one) && one["type"] == "bind") {
        return;
    }
    mounts.retain(|one| !is_memory(one));
    mounts.push(json!({ "destination": "/dev/shm", "type": "bind", "source": files.memory(),
                        "options": ["rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"] }));
}

fn has_namespace(config: &Value, kind: &str) -> bool {
    let namespaces = config.pointer("/linux/namespaces").and_then(Value::as_array);
    namespaces.into_iter().flatten().any(|one| one["type"] == kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::{
        LinuxContainerResources, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
        PodSandboxMetadata, SELinuxOption, UserNamespace,
    };

    fn pod(options: NamespaceOption) -> PodSandboxConfig {
        let security = LinuxSandboxSecurityContext {
            namespace_options: Some(options).into(),
            ..Default::default()
        };
        let limits = LinuxContainerResources {
            cpu_quota: -1,
            memory_limit_in_bytes: 7,
            ..Default::default()
        };
        PodSandboxConfig {
            hostname: "web".into(),
            metadata: Some(PodSandboxMetadata { name: "web".into(), ..Default::default() }).into(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: "/kubepods.slice/kubepods-pod1.slice".into(),
                security_context: Some(security).into(),
                sysctls: [("net.x".to_owned(), "1".to_owned())].into(),
                resources: Some(limits).into(),
                ..Default::default()
            })
            .into(),
            ..Default::default()
        }
    }

    fn planned(pod: &PodSandboxConfig, network: &str, systemd: bool) -> Result<Value, PodError> {
        planned_where(false, pod, network, systemd)
    }

    fn planned_where(
        has_selinux: bool,
        pod: &PodSandboxConfig,
        network: &str,
        systemd: bool,
    ) -> Result<Value, PodError> {
        let annotations = [("dev.cofferdam.x".to_owned(), "y".to_owned())].into();
        let plan = SandboxPlan {
            id: "a",
            pod,
            network,
            annotations: &annotations,
            systemd,
            program: Path::new("/shim"),
            has_selinux,
        };
        plan.config()
    }

    fn kinds(config: &Value) -> Vec<&str> {
        let namespaces = config["linux"]["namespaces"].as_array().unwrap();
        namespaces.iter().map(|one| one["type"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_pod_is_the_configuration_of_a_container_that_others_join() {
        let config = planned(&pod(NamespaceOption::default()), "/run/netns/n", false).unwrap();
        assert_eq!(kinds(&config), ["mount", "network", "uts", "pid", "ipc"]);
        assert_eq!(config["linux"]["namespaces"][1]["path"], "/run/netns/n");
        assert_eq!(config["linux"]["cgroupsPath"], "/kubepods.slice/kubepods-pod1.slice/a");
        assert_eq!(config["hostname"], "web");
        assert_eq!(config["linux"]["sysctl"]["net.x"], "1");
        assert_eq!(config["mounts"][0]["source"], "/shim");
        let said = |key: &str| config["annotations"][key].as_str().unwrap().to_owned();
        assert_eq!(said("io.kubernetes.cri.container-type"), "sandbox");
        assert_eq!(said(SANDBOX_ID), "a");
        assert_eq!(said("io.kubernetes.cri.sandbox-memory"), "7");
        assert_eq!(said("io.kubernetes.cri.sandbox-cpu-quota"), "-1");
        assert_eq!(said("dev.cofferdam.x"), "y");
        let config = planned(&pod(NamespaceOption::default()), "/n", true).unwrap();
        assert_eq!(config["linux"]["cgroupsPath"], "kubepods-pod1.slice:cri-containerd:a");
    }

    #[test]
    fn what_is_the_node_s_is_no_namespace() {
        let node = NamespaceMode::NODE.into();
        let options = NamespaceOption { network: node, pid: node, ipc: node, ..Default::default() };
        let config = planned(&pod(options), "", false).unwrap();
        assert_eq!(kinds(&config), ["mount"]);
        assert_eq!(config.get("hostname"), None);
    }

    #[test]
    fn what_a_sandbox_cannot_have_is_refused() {
        let refused = planned(&pod(NamespaceOption::default()), "", false).unwrap_err();
        assert_eq!(refused, PodError::Network);
        let users = |mode: NamespaceMode| NamespaceOption {
            userns_options: Some(UserNamespace { mode: mode.into(), ..Default::default() }).into(),
            ..Default::default()
        };
        let refused = planned(&pod(users(NamespaceMode::POD)), "/n", false).unwrap_err();
        assert_eq!(refused, PodError::Users);
        assert!(planned(&pod(users(NamespaceMode::NODE)), "/n", false).is_ok());
        let mut labelled = pod(NamespaceOption::default());
        let security = &mut labelled.linux.mut_or_insert_default().security_context;
        security.mut_or_insert_default().selinux_options = Some(SELinuxOption::default()).into();
        assert_eq!(planned_where(true, &labelled, "/n", false), Err(PodError::Label));
        assert!(planned_where(false, &labelled, "/n", false).is_ok());
        assert!(planned_where(true, &pod(NamespaceOption::default()), "/n", false).is_ok());
    }

    #[test]
    fn a_container_gets_of_its_pod_what_it_has_nothing_else_for() {
        let files = PodFiles::of(Path::new("/pod"));
        let mut config = json!({
            "root": { "readonly": true },
            "mounts": [{ "destination": "/etc/hosts", "source": "/kubelet" },
                       { "destination": "/dev/shm", "type": "tmpfs" }],
            "linux": { "namespaces": [{ "type": "ipc", "path": "/proc/7/ns/ipc" }] },
        });
        share(&mut config, &files);
        let mounts = config["mounts"].as_array().unwrap();
        let source = |destination: &str| {
            let mut found = mounts.iter().filter(|one| one["destination"] == destination);
            let one = found.next().unwrap();
            assert_eq!(found.next(), None, "{destination} is there twice");
            (one["source"].as_str().unwrap(), one["options"][2].as_str().unwrap_or_default())
        };
        assert_eq!(source("/etc/hosts"), ("/kubelet", ""));
        assert_eq!(source("/etc/hostname"), ("/pod/hostname", "ro"));
        assert_eq!(source("/etc/resolv.conf"), ("/pod/resolv.conf", "ro"));
        assert_eq!(source("/dev/shm"), ("/pod/shm", "rw"));
        // The host's memory is named where the host's IPC is.
        let mut config = json!({ "mounts": [{ "destination": "/dev/shm", "type": "bind" }] });
        share(&mut config, &files);
        assert_eq!(config["mounts"][0], json!({ "destination": "/dev/shm", "type": "bind" }));
    }

    #[test]
    fn a_member_names_its_sandbox() {
        let config = json!({ "annotations": { SANDBOX_ID: "a" } });
        assert!(is_member(&config, "a") && !is_member(&config, "b"));
        assert!(!is_member(&json!({}), "a"));
    }
}
