//! What a fresh Debian machine lacks to build, test and demonstrate the project.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::build::MUSL;
use crate::{process, progress};

/// A package, and what it is for.
const PACKAGES: &[(&str, &str)] = &[
    // Building.
    ("gcc", "links the programs, builds the guest kernel"),
    ("libc6-dev", "links the programs"),
    ("make", "builds the guest kernel and libbpf"),
    ("pkg-config", "finds the C libraries"),
    ("libseccomp-dev", "the runtime's seccomp compiler"),
    ("libelf-dev", "libbpf in the runtime, objtool in the guest kernel"),
    ("zlib1g-dev", "libbpf in the runtime"),
    ("linux-source-6.12", "the guest kernel's source"),
    ("bison", "builds the guest kernel"),
    ("flex", "builds the guest kernel"),
    ("bc", "builds the guest kernel"),
    ("xz-utils", "unpacks the guest kernel's source"),
    // The lab.
    ("qemu-system-x86", "the lab's machine"),
    ("qemu-system-common", "virtiofsd, the lab's file server"),
    ("busybox-static", "the lab's init, the tests' root file system"),
    ("kmod", "finds the lab's kernel modules"),
    // Root file systems and references.
    ("mmdebstrap", "the Debian root file system of demo and tests"),
    ("debian-archive-keyring", "checks what mmdebstrap fetches"),
    ("uidmap", "subordinate users for the scenarios of an ordinary user"),
    ("runc", "the reference that tests and benchmarks compare with"),
    ("crun", "the reference that benchmarks compare with"),
    ("criu", "saves and restores containers in namespaces"),
    ("containerd", "an engine for the scenarios of the shim"),
    ("containernetworking-plugins", "the pods' network in the scenarios of CRI"),
    ("docker.io", "an engine for the scenarios of the runtime"),
    ("podman", "an engine for the scenarios of the runtime"),
    ("buildah", "builds images in those scenarios"),
    ("netavark", "Podman's networks"),
    ("aardvark-dns", "names in Podman's networks"),
    ("catatonit", "Podman's init, and what keeps its pods"),
    ("iptables", "Docker's and Podman's networks"),
    ("iproute2", "the scenarios' networks"),
    ("strace", "puts faults into system calls, for the tests"),
];

/// `cargo xtask setup`.
pub(crate) fn run() -> Result<ExitCode> {
    ensure_packages()?;
    ensure_user()?;
    ensure_target()?;
    Ok(ExitCode::SUCCESS)
}

fn ensure_packages() -> Result<()> {
    let missing = missing_packages()?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("Debian packages to install:");
    for (name, purpose) in &missing {
        eprintln!("  {name:<24} {purpose}");
    }
    if !nix::unistd::geteuid().is_root() {
        let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
        bail!("Only root can install them: sudo apt-get install {}", names.join(" "));
    }
    if !all_known(&missing)? {
        let step = progress::step("Reading the package lists");
        process::output(apt().arg("update"))?;
        step.done();
    }
    let step = progress::step(format!("Installing {} packages", missing.len()));
    if install(&missing).is_err() {
        // A list that is too old names packages that are no longer there.
        process::output(apt().arg("update"))?;
        install(&missing)?;
    }
    step.done();
    Ok(())
}

/// The ordinary user of the end-to-end scenarios: it owns nothing and cannot log in.
const TEST_USER: &str = "cofferdam-test";

/// Ids far above those that `useradd` gives by itself, so that they are nobody else's.
const SUBORDINATE: &str = "200000000-200065535";

fn ensure_user() -> Result<()> {
    let has_line = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| line.starts_with(&format!("{TEST_USER}:")))
    };
    if ["/etc/passwd", "/etc/subuid", "/etc/subgid"].iter().all(|file| has_line(file)) {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("Only root can make the user {TEST_USER} of the tests: sudo cargo xtask setup");
    }
    if !has_line("/etc/passwd") {
        let shell =
            ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"];
        process::run(Command::new("useradd").args(shell).arg(TEST_USER))?;
    }
    for (file, flag) in [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")] {
        if !has_line(file) {
            process::run(Command::new("usermod").args([flag, SUBORDINATE, TEST_USER]))?;
        }
    }
    Ok(())
}

/// What packages' scripts start services with: by other programs of these names nothing is started.
/// The engines are for the scenarios, which start their own.
const STARTERS: [&str; 2] = ["invoke-rc.d", "deb-systemd-invoke"];

/// Where dpkg looks for programs.
const DPKG_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A folder with starters that start nothing. Outside of it nothing is changed, so that a setup which is
/// killed leaves a machine that starts its services as before.
fn no_services() -> Result<TempDir> {
    let folder = TempDir::with_prefix("cofferdam-setup-").context("Could not make a folder")?;
    for name in STARTERS {
        let path = folder.path().join(name);
        let mut options = fs::OpenOptions::new();
        options
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(&path)
            .and_then(|mut file| file.write_all(b"#!/bin/sh\nexit 0\n"))
            .with_context(|| format!("Could not write {}", path.display()))?;
    }
    Ok(folder)
}

fn install(packages: &[(&str, &str)]) -> Result<()> {
    let starters = no_services()?;
    let mut command = apt();
    command.arg("-o").arg(format!("DPkg::Path={}:{DPKG_PATH}", starters.path().display()));
    command.args(["install", "--yes", "--no-install-recommends"]);
    command.args(packages.iter().map(|(name, _)| name));
    process::output(&mut command).map(drop)
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet");
    // Another installation may be under way, as on a machine that has just booted.
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

fn missing_packages() -> Result<Vec<(&'static str, &'static str)>> {
    let listing = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(PACKAGES.iter().map(|(name, _)| name))
        .output()
        .context("Could not start dpkg-query: setup knows Debian only")?;
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    Ok(missing_in(&listing))
}

/// The packages that `dpkg-query` does not list as installed.
fn missing_in(listing: &str) -> Vec<(&'static str, &'static str)> {
    let installed = |name: &str| listing.lines().any(|line| line == format!("{name} installed"));
    PACKAGES.iter().copied().filter(|(name, _)| !installed(name)).collect()
}

/// Whether apt's lists have a candidate for each.
fn all_known(packages: &[(&str, &str)]) -> Result<bool> {
    for (name, _) in packages {
        let policy = process::output(Command::new("apt-cache").args(["policy", name]))?;
        if !policy.contains("Candidate:") || policy.contains("Candidate: (none)") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The Rust target of what is static.
fn ensure_target() -> Result<()> {
    let query = ["--print", "target-libdir", "--target", MUSL];
    let folder = process::output(Command::new("rustc").args(query))?;
    if Path::new(folder.trim()).is_dir() {
        return Ok(());
    }
    if process::find("rustup").is_none() {
        bail!(
            "This Rust has no {MUSL} target, and no rustup to add it with: see https://rustup.rs"
        );
    }
    process::run(Command::new("rustup").args(["target", "add", MUSL]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_or_unknown_is_missing() {
        let mut listing = String::new();
        for (name, _) in PACKAGES {
            let status = if *name == "runc" { "config-files" } else { "installed" };
            if *name != "crun" {
                listing.push_str(&format!("{name} {status}\n"));
            }
        }
        let missing: Vec<&str> = missing_in(&listing).into_iter().map(|(name, _)| name).collect();
        assert_eq!(missing, ["runc", "crun"]);
    }
}
