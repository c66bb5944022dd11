//! Looking at the machine, one thing at a time. Reads; changes nothing but the probe's cache.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use cofferdam_protocol::probe::ProbeReport;
use rustix::fs::{statfs, statvfs};

use crate::artifacts::{self, ArtifactError, Artifacts};
use crate::config::Config;
use crate::doctor::{Finding, Health};
use crate::host::digest::sha256;
use crate::host::log::with_causes;
use crate::host::user::User;
use crate::kind::SandboxKind;
use crate::probe;
use crate::sandbox::microvm;

const BOTH: &[SandboxKind] = &[SandboxKind::Microvm, SandboxKind::Namespace];
const MICROVM: &[SandboxKind] = &[SandboxKind::Microvm];
const NAMESPACE: &[SandboxKind] = &[SandboxKind::Namespace];

/// Looks at everything.
#[must_use]
pub fn look(config: &Config, root: &Path) -> Vec<Finding> {
    let user = User::current();
    let mut findings = vec![
        privileges(user),
        kvm(config),
        monitor(config),
        guest_files(config),
        user_namespaces(user),
        namespaces(),
        control_groups(),
        seccomp(),
        landlock(),
        apparmor(),
        port_forwarding(user),
        state_folder(root),
        memory(config),
    ];
    if user.is_ordinary() {
        findings.extend(super::user::look());
    }
    findings
}

pub(super) fn ok(name: &'static str, detail: impl Into<String>) -> Finding {
    Finding { name, health: Health::Ok, detail: detail.into(), remedy: None, needed_by: vec![] }
}

pub(super) fn bad(
    name: &'static str,
    health: Health,
    detail: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    Finding { name, health, detail: detail.into(), remedy: Some(remedy.into()), needed_by: vec![] }
}

fn needed_by(kinds: &[SandboxKind], mut finding: Finding) -> Finding {
    finding.needed_by = kinds.to_vec();
    finding
}

fn privileges(user: User) -> Finding {
    if !user.is_ordinary() {
        let inside = if user.in_user_namespace { " of a user namespace" } else { "" };
        return ok("privileges", format!("root{inside}"));
    }
    bad(
        "privileges",
        Health::Weak,
        "not root: only what a user namespace of one's own allows",
        "see docs/rootless.md, or run as root for devices and other users' files",
    )
}

fn kvm(config: &Config) -> Finding {
    let name = "KVM";
    let finding = match probe::report(&config.microvm) {
        Ok(ProbeReport::Fit { ring0_ns_x100 }) => {
            let (whole, hundredths) = (ring0_ns_x100 / 100, ring0_ns_x100 % 100);
            ok(name, format!("fit, {whole}.{hundredths:02} ns for an instruction in ring 0"))
        }
        Ok(ProbeReport::Unfit { reason }) => bad(
            name,
            Health::Missing,
            format!("unfit: {reason}"),
            "use a machine with hardware virtualisation, or nested virtualisation switched on",
        ),
        Ok(ProbeReport::Absent { reason }) => bad(
            name,
            Health::Missing,
            reason,
            "load kvm-intel or kvm-amd, and give this user /dev/kvm: usermod --append --groups kvm USER",
        ),
        Err(error) => {
            bad(name, Health::Missing, with_causes(&error), "see the monitor, which runs the probe")
        }
    };
    needed_by(MICROVM, finding)
}

const BUILD: &str = "`make build`, or `make install`, or set microvm.guest and microvm.monitor in \
                     the configuration";

fn monitor(config: &Config) -> Finding {
    let finding = match artifacts::find_monitor(&config.microvm) {
        Ok(path) => ok("monitor", path.display().to_string()),
        Err(error) => bad("monitor", Health::Missing, with_causes(&error), BUILD),
    };
    needed_by(MICROVM, finding)
}

fn guest_files(config: &Config) -> Finding {
    let name = "guest files";
    let finding = match check_guest_files(config) {
        Ok(detail) => ok(name, detail),
        Err(error) => bad(name, Health::Missing, with_causes(&error), BUILD),
    };
    needed_by(MICROVM, finding)
}

/// Why the guest's files are not those of the manifest.
#[derive(Debug, thiserror::Error)]
enum GuestFileError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error("Cannot read {file}")]
    Read { file: String, source: io::Error },
    #[error("{file} is not the file that the manifest means: its SHA-256 is {found}")]
    Changed { file: String, found: String },
}

fn check_guest_files(config: &Config) -> Result<String, GuestFileError> {
    let (folder, manifest) = artifacts::find_manifest(&config.microvm)?;
    let Artifacts { kernel, initramfs, .. } = match Artifacts::open(&config.microvm) {
        // It has a line of its own.
        Err(ArtifactError::NoMonitor { .. }) => {
            return Ok(format!("{} (not compared)", folder.display()));
        }
        other => other?,
    };
    compare(&manifest.kernel.file, kernel, &manifest.kernel.sha256)?;
    compare(&manifest.initramfs.file, initramfs, &manifest.initramfs.sha256)?;
    Ok(format!("Linux {} in {}", manifest.kernel.version, folder.display()))
}

fn compare(name: &str, mut file: File, expected: &str) -> Result<(), GuestFileError> {
    let found = sha256(&mut file)
        .map_err(|source| GuestFileError::Read { file: name.to_owned(), source })?;
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(GuestFileError::Changed { file: name.to_owned(), found })
}

fn user_namespaces(user: User) -> Finding {
    let name = "user namespaces";
    let most = read_number("/proc/sys/user/max_user_namespaces");
    let finding = match most {
        Some(0) => bad(
            name,
            Health::Missing,
            "switched off",
            "sysctl user.max_user_namespaces=15000 (the monitor's jail is one)",
        ),
        Some(most) => ok(name, format!("at most {most}")),
        None => bad(name, Health::Missing, "not in this kernel", "a kernel with CONFIG_USER_NS"),
    };
    // An ordinary user has no other way to any namespace.
    needed_by(if user.is_ordinary() { BOTH } else { MICROVM }, finding)
}

fn namespaces() -> Finding {
    const ALL: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
    let missing: Vec<_> = ALL
        .into_iter()
        .filter(|kind| fs::symlink_metadata(format!("/proc/self/ns/{kind}")).is_err())
        .collect();
    let finding = if missing.is_empty() {
        ok("namespaces", ALL.join(", "))
    } else {
        let detail = format!("without {}", missing.join(", "));
        bad("namespaces", Health::Missing, detail, "a kernel with CONFIG_NAMESPACES")
    };
    needed_by(BOTH, finding)
}

fn control_groups() -> Finding {
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    let name = "control groups";
    let is_v2 = |path: &str| statfs(path).is_ok_and(|found| found.f_type == CGROUP2_SUPER_MAGIC);
    let controllers = || fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    let finding = if is_v2("/sys/fs/cgroup") {
        let controllers = controllers().unwrap_or_default();
        ok(name, format!("version 2: {}", controllers.trim()))
    } else if Path::new("/sys/fs/cgroup/memory").is_dir() {
        let kind = if is_v2("/sys/fs/cgroup/unified") { "hybrid" } else { "version 1" };
        bad(
            name,
            Health::Weak,
            format!("{kind}: limits in namespaces work, some of version 2 do not"),
            "boot with systemd.unified_cgroup_hierarchy=1",
        )
    } else {
        bad(name, Health::Missing, "not mounted", "mount -t cgroup2 none /sys/fs/cgroup")
    };
    needed_by(NAMESPACE, finding)
}

fn seccomp() -> Finding {
    let finding = match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) => ok("seccomp", actions.trim().to_owned()),
        Err(_) => bad(
            "seccomp",
            Health::Missing,
            "not in this kernel",
            "a kernel with CONFIG_SECCOMP_FILTER",
        ),
    };
    needed_by(BOTH, finding)
}

fn landlock() -> Finding {
    let name = "Landlock";
    let remedy = "a kernel with CONFIG_SECURITY_LANDLOCK, and landlock in its lsm= list";
    match fs::read_to_string("/sys/kernel/security/lsm") {
        Ok(modules) if modules.split(',').any(|module| module.trim() == "landlock") => {
            ok(name, "on: one more wall of the monitor's jail")
        }
        Ok(_) => bad(name, Health::Weak, "off: the monitor's jail has one wall less", remedy),
        Err(_) => bad(
            name,
            Health::Weak,
            "unknown: /sys/kernel/security is not mounted",
            "mount -t securityfs none /sys/kernel/security",
        ),
    }
}

fn apparmor() -> Finding {
    let name = "AppArmor";
    match fs::read_to_string("/sys/module/apparmor/parameters/enabled") {
        Ok(enabled) if enabled.trim() == "Y" => ok(name, "on: profiles hold in namespaces"),
        Ok(_) | Err(_) => bad(
            name,
            Health::Weak,
            "off: a configuration that names a profile is refused",
            "boot with apparmor=1 security=apparmor, where the distribution has it",
        ),
    }
}

/// Pods of an ordinary user's are never in microVMs.
fn port_forwarding(user: User) -> Finding {
    let name = "port forwarding";
    if user.is_ordinary() {
        return ok(name, "into microVMs: for root's pods only");
    }
    match microvm::forwarding_is_possible() {
        Ok(()) => ok(name, "into microVMs: the kernel takes programs that look sockets up"),
        Err(error) => bad(
            name,
            Health::Weak,
            format!("`kubectl port-forward` does not reach pods in microVMs: {error}"),
            "use Linux 5.9 or newer, as root of the host with CAP_NET_ADMIN and CAP_BPF",
        ),
    }
}

/// The state of a container is a few files of some kilobytes.
const MIN_STATE_MIB: u64 = 16;

fn state_folder(root: &Path) -> Finding {
    let name = "state folder";
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let finding = match statvfs(existing) {
        Ok(found) => {
            let free_mib = (found.f_bavail * found.f_frsize) >> 20;
            let detail = format!("{}: {free_mib} MiB free", root.display());
            if free_mib >= MIN_STATE_MIB {
                ok(name, detail)
            } else {
                bad(name, Health::Missing, detail, "make room there, or use --root")
            }
        }
        Err(error) => {
            let detail = format!("{}: {}", root.display(), io::Error::from(error));
            bad(name, Health::Missing, detail, "use --root")
        }
    };
    needed_by(BOTH, finding)
}

fn memory(config: &Config) -> Finding {
    let name = "memory";
    let needed = u64::from(config.microvm.memory_mib);
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| {
        let value = line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?;
        Some(value.trim().parse::<u64>().ok()? >> 10)
    });
    match available {
        Some(mib) if mib >= needed => ok(name, format!("{mib} MiB available")),
        Some(mib) => bad(
            name,
            Health::Weak,
            format!("{mib} MiB available, a microVM may use {needed}"),
            "set microvm.memory_mib in the configuration, or limits in the containers'",
        ),
        None => bad(name, Health::Weak, "unknown", "mount /proc"),
    }
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_a_name_and_something_to_say() {
        let findings = look(&Config::default(), Path::new("/run/cofferdam"));
        for found in &findings {
            assert!(!found.name.is_empty() && !found.detail.is_empty(), "{found:?}");
            assert_eq!(found.health == Health::Ok, found.remedy.is_none(), "{found:?}");
        }
    }
}
