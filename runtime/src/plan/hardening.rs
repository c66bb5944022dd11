//! What namespace mode adds to a spec that leaves things open, and that it says so.
//!
//! Pure: a spec and the operator's configuration go in, a tightened spec and the list of what was
//! added come out. Nothing that the spec says is loosened, and nothing that it asks for by name is
//! taken away; `--compat` leaves all of this out.
//!
//! | where the spec has | it gets |
//! |---|---|
//! | no seccomp profile | the allow-list of [`syscalls`], with what its capabilities are for |
//! | `noNewPrivileges` absent | `true`; an explicit `false` stays |
//! | permitted beyond bounding, effective beyond permitted, inheritable without ambient | cut |
//! | no masked, no read-only paths, and no `CAP_SYS_ADMIN` (which could undo them) | the usual ones |
//! | no cgroup namespace, and no bind mount of the hierarchy | one |
//! | no device rules | deny all, but for the default devices and those of `linux.devices` |
//! | no limit of processes, of memory | those of `config.toml` |
//!
//! Left out, and said so in `dev.cofferdam.hardening.omitted`: a user namespace, because the files
//! of the root file system belong to other users in it unless the mount is id-mapped, which
//! `libcontainer` cannot do for the root; AppArmor and SELinux, because a profile of ours would have
//! to be loaded into the host's policy first.

mod seccomp;
mod syscalls;

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilities, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, Process, Spec,
};

use crate::config::NamespaceConfig;

/// The annotation that lists what was added.
const ADDED: &str = "dev.cofferdam.hardening";
/// The annotation that says what could have been and was not.
const OMITTED: &str = "dev.cofferdam.hardening.omitted";

/// Below `/proc` and `/sys`: what says more about the host than a container needs to know.
const MASKED_PATHS: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/debug",
];

/// Below `/proc`: what changes the host when it is written to.
const READ_ONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the host can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// It can limit the number of processes.
    pub pids_controller: bool,
    /// It can limit memory.
    pub memory_controller: bool,
    /// It lets the caller say which devices may be used.
    pub device_rules: bool,
}

/// A spec and what was added to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Hardened {
    /// The spec, tightened.
    pub spec: Spec,
    /// Each addition in a word or two.
    pub added: Vec<&'static str>,
    /// What was not added, and why.
    pub omitted: Vec<&'static str>,
}

impl Hardened {
    /// The spec as it is: `--compat`.
    #[must_use]
    pub fn unchanged(spec: &Spec) -> Self {
        Self { spec: spec.clone(), added: Vec::new(), omitted: vec!["everything: --compat"] }
    }

    /// What `state` shows.
    #[must_use]
    pub fn notes(&self) -> Vec<(String, String)> {
        vec![
            (ADDED.to_owned(), self.added.join(", ")),
            (OMITTED.to_owned(), self.omitted.join("; ")),
        ]
    }

    fn add(&mut self, addition: &'static str) {
        self.added.push(addition);
    }

    fn omit(&mut self, omission: &'static str) {
        self.omitted.push(omission);
    }
}

/// Tightens a spec.
#[must_use]
pub fn harden(spec: &Spec, config: &NamespaceConfig, facts: HostFacts) -> Hardened {
    let mut hardened = Hardened { spec: spec.clone(), added: Vec::new(), omitted: Vec::new() };
    tighten_process(&mut hardened, config);
    let mut linux = spec.linux().clone().unwrap_or_default();
    tighten_kernel(&mut hardened, &mut linux, config);
    let mut resources = linux.resources().clone().unwrap_or_else(no_resources);
    if facts.device_rules {
        tighten_devices(&mut hardened, &linux, &mut resources);
    } else {
        hardened.omit("device allow-list: only root can make or forbid devices");
    }
    tighten_limits(&mut hardened, &mut resources, config, facts);
    linux.set_resources(Some(resources));
    hardened.spec.set_linux(Some(linux));
    omit_the_rest(&mut hardened);
    hardened
}

/// `LinuxResources::default()` is not empty.
fn no_resources() -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_devices(None).set_pids(None).set_memory(None);
    resources
}

fn tighten_process(hardened: &mut Hardened, config: &NamespaceConfig) {
    let Some(mut process) = hardened.spec.process().clone() else { return };
    if config.no_new_privileges && process.no_new_privileges().is_none() {
        process.set_no_new_privileges(Some(true));
        hardened.add("no_new_privileges");
    }
    if let Some(capabilities) = process.capabilities() {
        let cut = cut_capabilities(capabilities);
        if &cut != capabilities {
            process.set_capabilities(Some(cut));
            hardened.add("capabilities");
        }
    }
    hardened.spec.set_process(Some(process));
}

/// Effective within permitted within bounding; inheritable only where ambient uses it: alone it
/// serves programs with file capabilities to get what the container's process did not ask for
/// (CVE-2022-24769).
fn cut_capabilities(said: &LinuxCapabilities) -> LinuxCapabilities {
    let within = |set: &Option<Capabilities>, limit: &Option<Capabilities>| {
        let empty = Capabilities::default();
        let limit = limit.as_ref().unwrap_or(&empty);
        set.as_ref().map(|set| set.intersection(limit).copied().collect::<Capabilities>())
    };
    let mut cut = said.clone();
    cut.set_permitted(within(said.permitted(), said.bounding()));
    cut.set_effective(within(said.effective(), cut.permitted()));
    cut.set_inheritable(within(said.inheritable(), said.ambient()));
    cut
}

/// Whether the container's process may come to have this capability.
fn can_have(process: Option<&Process>, capability: Capability) -> bool {
    process
        .and_then(|p| p.capabilities().as_ref())
        .and_then(|c| c.bounding().as_ref())
        .is_some_and(|set| set.contains(&capability))
}

fn tighten_kernel(hardened: &mut Hardened, linux: &mut Linux, config: &NamespaceConfig) {
    let process = hardened.spec.process().clone();
    let has = |capability| can_have(process.as_ref(), capability);
    if config.seccomp && linux.seccomp().is_none() {
        linux.set_seccomp(seccomp::profile(has));
        hardened.add("seccomp");
    }
    if config.masked_paths && has_namespace(linux, LinuxNamespaceType::Mount) {
        hide_paths(hardened, linux, has(Capability::SysAdmin));
    }
    if config.cgroup_namespace
        && has_namespace(linux, LinuxNamespaceType::Mount)
        && !has_namespace(linux, LinuxNamespaceType::Cgroup)
    {
        if binds_cgroups(&hardened.spec) {
            hardened.omit("cgroup namespace: the host's hierarchy is mounted");
        } else if let Ok(own) =
            LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Cgroup).build()
        {
            let mut all = linux.namespaces().clone().unwrap_or_default();
            all.push(own);
            linux.set_namespaces(Some(all));
            hardened.add("cgroup namespace");
        }
    }
}

fn hide_paths(hardened: &mut Hardened, linux: &mut Linux, is_admin: bool) {
    let open = linux.masked_paths().is_none() || linux.readonly_paths().is_none();
    if open && is_admin {
        hardened.omit("masked paths: CAP_SYS_ADMIN could unmount them");
        return;
    }
    let owned = |paths: &[&str]| Some(paths.iter().map(|p| (*p).to_owned()).collect());
    if linux.masked_paths().is_none() {
        linux.set_masked_paths(owned(&MASKED_PATHS));
        hardened.add("masked paths");
    }
    if linux.readonly_paths().is_none() {
        linux.set_readonly_paths(owned(&READ_ONLY_PATHS));
        hardened.add("read-only paths");
    }
}

fn has_namespace(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    linux.namespaces().iter().flatten().any(|n| n.typ() == kind)
}

fn binds_cgroups(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(|mount| {
        mount.destination().starts_with("/sys/fs/cgroup")
            && !matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2" | "tmpfs"))
    })
}

fn tighten_devices(hardened: &mut Hardened, linux: &Linux, resources: &mut LinuxResources) {
    if resources.devices().as_ref().is_some_and(|rules| !rules.is_empty()) {
        return;
    }
    let Some(mut rules) = deny_all_devices() else { return };
    rules.extend(linux.devices().iter().flatten().filter_map(|device| {
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(rule_type(device.typ())?)
            .major(device.major())
            .minor(device.minor())
            .access("rwm")
            .build()
            .ok()
    }));
    resources.set_devices(Some(rules));
    hardened.add("device allow-list");
}

/// What the kernel's rules call this kind of device, if it has rules for it: none for a FIFO, and
/// an unbuffered device is a character device.
fn rule_type(device: LinuxDeviceType) -> Option<LinuxDeviceType> {
    match device {
        LinuxDeviceType::B => Some(LinuxDeviceType::B),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(LinuxDeviceType::C),
        LinuxDeviceType::P | LinuxDeviceType::A => None,
    }
}

fn deny_all_devices() -> Option<Vec<LinuxDeviceCgroup>> {
    let all = LinuxDeviceCgroupBuilder::default()
        .allow(false)
        .typ(LinuxDeviceType::A)
        .access("rwm")
        .build()
        .ok()?;
    Some(vec![all])
}

fn tighten_limits(
    hardened: &mut Hardened,
    resources: &mut LinuxResources,
    config: &NamespaceConfig,
    facts: HostFacts,
) {
    if config.pids_limit > 0 && resources.pids().is_none() {
        if facts.pids_controller {
            let limit = LinuxPidsBuilder::default().limit(config.pids_limit).build().ok();
            resources.set_pids(limit);
            hardened.add("pids limit");
        } else {
            hardened.omit("pids limit: there is no pids controller for this caller");
        }
    }
    let memory = resources.memory().as_ref();
    if config.memory_mib > 0 && memory.is_none_or(|m| m.limit().is_none()) {
        if facts.memory_controller {
            let limit = i64::from(config.memory_mib) * 1024 * 1024;
            let mut memory = memory
                .copied()
                .or_else(|| LinuxMemoryBuilder::default().build().ok())
                .unwrap_or_default();
            memory.set_limit(Some(limit));
            resources.set_memory(Some(memory));
            hardened.add("memory limit");
        } else {
            hardened.omit("memory limit: the host has no memory controller");
        }
    }
}

fn omit_the_rest(hardened: &mut Hardened) {
    let linux = hardened.spec.linux().clone().unwrap_or_default();
    if !has_namespace(&linux, LinuxNamespaceType::User) {
        hardened.omit("user namespace: the root file system is not id-mapped");
    }
    let process = hardened.spec.process().as_ref();
    if process.is_none_or(|p| p.apparmor_profile().is_none()) {
        hardened.omit("AppArmor: no profile of ours is in the host's policy");
    }
}

#[cfg(test)]
mod tests;
