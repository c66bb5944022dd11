//! No mount may lie over a part of `/proc`: what is written there decides about the process that
//! writes (`attr/apparmor/exec`), and a forged file there lies to it (CVE-2019-16884 and those after
//! it). `libcontainer` looks at this for mounts of type proc and sysfs only.
//!
//! Hostile: the root file system: a link in it may lead an innocent destination below `/proc`.

use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// What lxcfs and its kind put over the host's numbers, as runc allows it.
const ALLOWED: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// The first mount that lies over a part of `/proc`, by its destination.
pub(super) fn find(spec: &Spec, rootfs: &Path) -> Option<PathBuf> {
    let mounts = spec.mounts().iter().flatten();
    mounts.filter(|mount| lies_over_proc(mount, rootfs)).map(|m| m.destination().clone()).next()
}

fn lies_over_proc(mount: &Mount, rootfs: &Path) -> bool {
    let destination = resolve(rootfs, mount.destination());
    let Ok(below) = destination.strip_prefix("/proc") else { return false };
    if below.as_os_str().is_empty() {
        return mount.typ().as_deref() != Some("proc") && !binds_procfs(mount);
    }
    !ALLOWED.iter().any(|allowed| destination == Path::new(allowed))
}

/// Another procfs may be bound to `/proc`: that of an outer namespace.
fn binds_procfs(mount: &Mount) -> bool {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    rustix::fs::statfs(source).is_ok_and(|fs| fs.f_type == PROC_SUPER_MAGIC)
}

/// Where a destination leads inside the root, with the links that are there now followed: as far
/// as it exists, and the rest as it is written.
pub(super) fn resolve(rootfs: &Path, destination: &Path) -> PathBuf {
    let written: PathBuf = clean(destination);
    resolve_existing(rootfs, &written).unwrap_or(written)
}

fn resolve_existing(rootfs: &Path, written: &Path) -> Option<PathBuf> {
    let folder = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(rootfs, folder | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let at = |path: &Path| {
        rustix::fs::openat2(&root, path, folder, Mode::empty(), ResolveFlags::IN_ROOT).ok()
    };
    let name = |fd: &std::os::fd::OwnedFd| {
        std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
    };
    let (existing, found) = written.ancestors().find_map(|path| Some((path, at(path)?)))?;
    let rest = written.strip_prefix(existing).ok()?;
    let inside = name(&found)?.strip_prefix(name(&root)?).ok()?.to_owned();
    Some(clean(&Path::new("/").join(inside).join(rest)))
}

/// Without `.` and `..`, as the kernel would go from the root.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn over_proc(rootfs: &Path, destination: &str, kind: &str) -> bool {
        let mount = serde_json::json!({
            "destination": destination, "type": kind, "source": "x",
        });
        lies_over_proc(&serde_json::from_value(mount).unwrap(), rootfs)
    }

    #[test]
    fn only_a_procfs_may_be_at_proc_and_few_files_below_it() {
        let root = tempfile::tempdir().unwrap();
        let over = |destination, kind| over_proc(root.path(), destination, kind);
        assert!(!over("/proc", "proc"));
        assert!(over("/proc", "tmpfs"));
        assert!(!over("/proc/meminfo", "bind"));
        assert!(over("/proc/self/attr", "bind"));
        assert!(over("/a/../proc/./sys", "tmpfs"));
        assert!(!over("/procession", "tmpfs"));
    }

    #[test]
    fn a_link_into_proc_is_seen_through() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        symlink("/proc", root.path().join("data")).unwrap();
        symlink("../../proc", root.path().join("far")).unwrap();
        assert!(over_proc(root.path(), "/data/self", "bind"));
        assert!(over_proc(root.path(), "/far/sys", "bind"));
        assert!(!over_proc(root.path(), "/other", "bind"));
    }
}
