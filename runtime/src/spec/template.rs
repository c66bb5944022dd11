//! The starter configuration that `spec` writes: the same container as runc's, under our name.

use serde_json::{Value, json};

/// The version of the specification that the template is written for.
pub const OCI_VERSION: &str = "1.2.0";

const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/// For root.
#[must_use]
pub fn rootful() -> Value {
    json!({
        "ociVersion": OCI_VERSION,
        "process": process(),
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "cofferdam",
        "mounts": mounts(),
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces(&["pid", "network", "ipc", "uts", "mount", "cgroup"]),
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/proc/scsi"
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"
            ]
        }
    })
}

/// For a user without privileges: a user namespace in which that user is root, the host's network,
/// and no limits (whose cgroups are not the user's).
#[must_use]
pub fn rootless(uid: u32, gid: u32) -> Value {
    let mut document = rootful();
    document["linux"]["namespaces"] = namespaces(&["pid", "ipc", "uts", "mount", "cgroup", "user"]);
    document["linux"]["uidMappings"] = mapping(uid);
    document["linux"]["gidMappings"] = mapping(gid);
    if let Some(linux) = document["linux"].as_object_mut() {
        linux.remove("resources");
    }
    if let Some(mounts) = document["mounts"].as_array_mut() {
        for mount in mounts {
            make_rootless(mount);
        }
    }
    document
}

fn process() -> Value {
    json!({
        "terminal": true,
        "user": { "uid": 0, "gid": 0 },
        "args": ["sh"],
        "env": [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "TERM=xterm"
        ],
        "cwd": "/",
        "capabilities": {
            "bounding": CAPABILITIES,
            "effective": CAPABILITIES,
            "permitted": CAPABILITIES
        },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
        "noNewPrivileges": true
    })
}

fn mounts() -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| {
        let mut mount = json!({ "destination": destination, "type": kind, "source": source });
        if !options.is_empty() {
            mount["options"] = json!(options);
        }
        mount
    };
    let quiet = ["nosuid", "noexec", "nodev"];
    json!([
        mount("/proc", "proc", "proc", &[]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &quiet),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"]
        ),
    ])
}

fn namespaces(kinds: &[&str]) -> Value {
    kinds.iter().map(|kind| json!({ "type": kind })).collect()
}

fn mapping(host: u32) -> Value {
    json!([{ "containerID": 0, "hostID": host, "size": 1 }])
}

/// sysfs belongs to the network namespace's owner: the host's is bound instead. A group that is
/// not mapped cannot own a terminal.
fn make_rootless(mount: &mut Value) {
    if mount["destination"] == "/sys" {
        *mount = json!({
            "destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]
        });
    }
    if let Some(options) = mount["options"].as_array_mut() {
        options.retain(|option| option != "gid=5");
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Spec;

    use super::*;

    #[test]
    fn both_templates_pass_their_own_rules() {
        for document in [rootful(), rootless(1000, 1000)] {
            let spec: Spec = serde_json::from_value(document).unwrap();
            crate::spec::rules::check(&spec).unwrap();
        }
    }

    #[test]
    fn the_rootless_one_asks_for_nothing_that_needs_root() {
        let document = rootless(1000, 100);
        assert_eq!(document["linux"]["uidMappings"][0]["hostID"], 1000);
        assert_eq!(document["linux"]["gidMappings"][0]["hostID"], 100);
        let text = document.to_string();
        assert!(!text.contains("gid=5"));
        assert!(!text.contains("resources"));
        assert!(!text.contains("\"network\""));
    }
}
