//! The operator's configuration: `/etc/cofferdam/config.toml`, or what `--config` names.
//!
//! Every key has a default, so that the file may be absent. An unknown key is an error that names
//! it: a misspelt limit must not be a limit that is not there.

use std::path::PathBuf;

use serde::Deserialize;

/// Where the configuration is when `--config` does not say.
pub const DEFAULT_PATH: &str = "/etc/cofferdam/config.toml";

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[isolation]`.
    pub isolation: IsolationConfig,
    /// `[microvm]`.
    pub microvm: MicroVmConfig,
    /// `[namespace]`.
    pub namespace: NamespaceConfig,
}

/// Which isolation containers get.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IsolationConfig {
    /// Decides for every container: neither the flag nor an annotation changes it.
    pub policy: Option<IsolationRequest>,
    /// What the annotation `dev.cofferdam.isolation` may ask for although it is weaker than what
    /// holds without it. It comes from the tenant: empty by default.
    pub annotation_may_weaken_to: Vec<IsolationRequest>,
}

/// An isolation that can be asked for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, serde::Serialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum IsolationRequest {
    /// A microVM where the machine can serve one, else hardened namespaces.
    Auto,
    /// A microVM or an error.
    Microvm,
    /// Hardened namespaces.
    Namespace,
}

/// The shape of a microVM and what it is made from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MicroVmConfig {
    /// Folder with `vmlinux`, `initramfs.cpio` and `manifest.json`. Absent: beside the program
    /// ([`crate::artifacts`]).
    pub guest: Option<PathBuf>,
    /// The monitor. Absent: `cofferdam-vmm` beside the program.
    pub monitor: Option<PathBuf>,
    /// Virtual processors of a sandbox whose spec has no CPU limit.
    pub vcpus: u8,
    /// Guest memory in MiB of a sandbox whose spec has no memory limit.
    pub memory_mib: u32,
    /// Memory added to a spec's limit for the guest kernel and the agent, in MiB.
    pub memory_overhead_mib: u32,
    /// How long a guest may take until its agent is ready, in milliseconds.
    pub boot_timeout_ms: u64,
    /// How long the agent may take to answer a request, in milliseconds.
    pub request_timeout_ms: u64,
    /// Keep the guest's console output in `console.log` in the state folder.
    pub console_log: bool,
}

impl Default for MicroVmConfig {
    fn default() -> Self {
        Self {
            guest: None,
            monitor: None,
            vcpus: 1,
            memory_mib: 512,
            memory_overhead_mib: 64,
            boot_timeout_ms: 10_000,
            request_timeout_ms: 10_000,
            console_log: false,
        }
    }
}

/// What hardening adds where a spec leaves it open. `--compat` turns all of it off.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceConfig {
    /// Most processes of a container whose spec has no limit; 0: no limit is added.
    pub pids_limit: i64,
    /// Memory in MiB of a container whose spec has no limit; 0: no limit is added.
    pub memory_mib: u32,
    /// Add a seccomp allow-list where the spec has none.
    pub seccomp: bool,
    /// Set `no_new_privs` where the spec leaves it off and needs no privilege gain.
    pub no_new_privileges: bool,
    /// Add the masked and read-only paths below `/proc` and `/sys` where the spec has none.
    pub masked_paths: bool,
    /// Add a cgroup namespace where the spec has none.
    pub cgroup_namespace: bool,
}

impl Default for NamespaceConfig {
    fn default() -> Self {
        Self {
            pids_limit: 4096,
            memory_mib: 0,
            seccomp: true,
            no_new_privileges: true,
            masked_paths: true,
            cgroup_namespace: true,
        }
    }
}
