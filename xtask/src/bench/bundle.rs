//! The bundles that are measured: busybox with what engines ask for, more or less.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::process;

/// Writes a bundle that runs `args`.
pub(super) fn write(folder: &Path, rootfs: &Path, args: &[&str]) -> Result<()> {
    write_with(folder, rootfs, args, |_| {})
}

/// The same with another configuration.
pub(super) fn write_with(
    folder: &Path,
    rootfs: &Path,
    args: &[&str],
    change: impl FnOnce(&mut Value),
) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("Could not make {}", folder.display()))?;
    let copy = ["-a", "--reflink=auto"];
    process::run(Command::new("cp").args(copy).arg(rootfs).arg(folder.join("rootfs")))?;
    let mut config = config("rootfs", args);
    change(&mut config);
    fs::write(folder.join("config.json"), serde_json::to_vec_pretty(&config)?)?;
    Ok(())
}

/// Has the container join a network namespace that is there.
pub(super) fn join_network(config: &mut Value, path: &Path) {
    let namespaces = config["linux"]["namespaces"].as_array_mut();
    for entry in namespaces.into_iter().flatten().filter(|entry| entry["type"] == "network") {
        entry["path"] = json!(path);
    }
}

/// What `runc spec` writes, without a terminal.
pub(crate) fn config(rootfs: &str, args: &[&str]) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true
        },
        "root": { "path": rootfs, "readonly": false },
        "hostname": "container",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts",
                  &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" },
                { "type": "uts" }, { "type": "mount" }
            ],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list",
                            "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                              "/proc/sysrq-trigger"]
        }
    })
}

fn mount(destination: &str, kind: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": kind, "options": options })
}
