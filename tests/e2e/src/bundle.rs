//! A bundle on disk: a root file system and a `config.json` that a scenario edits.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Runtime, User, setting};

/// A bundle, on disk as long as one of its clones (a container has one) is there.
#[derive(Clone, Debug)]
pub struct Bundle {
    folder: Rc<Folder>,
    config: Value,
}

/// The bundle's folder, with whatever is mounted on its root file system.
#[derive(Debug)]
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::with_prefix("cofferdam-bundle-").unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Most have nothing mounted.
        let _ = umount2(&self.path().join("rootfs"), MntFlags::MNT_DETACH);
    }
}

impl Bundle {
    /// A busybox root file system, running `args` without a terminal.
    #[must_use]
    pub fn busybox(args: &[&str]) -> Self {
        Self::of(&setting("COFFERDAM_BUSYBOX"), args)
    }

    /// The same with `sh -c script`.
    #[must_use]
    pub fn script(script: &str) -> Self {
        Self::busybox(&["sh", "-c", script])
    }

    /// The busybox root with the guest probe as `/probe`, which tries to open `paths`.
    #[must_use]
    pub fn probe(paths: &[&str]) -> Self {
        let bundle = Self::busybox(&[]);
        fs::copy(setting("COFFERDAM_PROBE_BIN"), bundle.rootfs().join("probe")).unwrap();
        let args: Vec<&str> = ["/probe", "--try"].iter().chain(paths).copied().collect();
        bundle.edit(|config| config["process"]["args"] = json!(args))
    }

    /// A Debian root file system, running `args`. Shared between tests: read-only.
    #[must_use]
    pub fn debian(args: &[&str]) -> Self {
        let folder = Folder::new();
        let mut config = base_config(args);
        config["root"] = json!({ "path": setting("COFFERDAM_DEBIAN"), "readonly": true });
        Self { folder: Rc::new(folder), config }.written()
    }

    /// What an ordinary user can run: a user namespace in which it is root, and no group for
    /// terminals. All of it is the user's.
    #[must_use]
    pub fn owned_by(self, user: &User) -> Self {
        let (uid, gid) = (user.uid, user.gid);
        let bundle = self.edit(|config| {
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
            config["linux"]["uidMappings"] =
                json!([{ "containerID": 0, "hostID": uid, "size": 1 }]);
            config["linux"]["gidMappings"] =
                json!([{ "containerID": 0, "hostID": gid, "size": 1 }]);
            let mounts = config["mounts"].as_array_mut().unwrap();
            let of_terminals = mounts.iter_mut().find(|mount| mount["type"] == "devpts").unwrap();
            of_terminals["options"].as_array_mut().unwrap().retain(|option| option != "gid=5");
        });
        user.give(bundle.path());
        bundle
    }

    /// What `spec --rootless` writes for a user, but for the program and the terminal.
    #[must_use]
    pub fn of_spec(runtime: &Runtime, user: &User, args: &[&str]) -> Self {
        let bundle = Self::busybox(&[]);
        let file = bundle.path().join("config.json");
        fs::remove_file(&file).unwrap();
        user.give(bundle.path());
        let path = bundle.path().to_str().unwrap();
        runtime.verb(&["spec", "--rootless", "--bundle", path]).exits(0);
        let mut config: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(args);
        bundle.with_config_text(&config.to_string())
    }

    /// From 1 on with the user's subordinate ids, which its root may give files to.
    #[must_use]
    pub fn with_subordinate(self, user: &User) -> Self {
        let (first, count) = user.subordinate();
        self.edit(|config| {
            for (field, own) in [("uidMappings", user.uid), ("gidMappings", user.gid)] {
                config["linux"][field] = json!([
                    { "containerID": 0, "hostID": own, "size": 1 },
                    { "containerID": 1, "hostID": first, "size": count }
                ]);
            }
            let capabilities = json!(["CAP_CHOWN"]);
            config["process"]["capabilities"] = json!({
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            });
        })
    }

    /// User and group of a file of the root file system, as the host has them.
    #[must_use]
    pub fn owner(&self, name: &str) -> (u32, u32) {
        let metadata = fs::symlink_metadata(self.rootfs().join(name)).unwrap();
        (metadata.uid(), metadata.gid())
    }

    /// A Debian with systemd and Docker that boots as a machine of its own: a writable layer over
    /// the shared root file system, folders in memory where a machine has them, the capabilities
    /// and the control groups that `docker run --privileged` would give.
    #[must_use]
    pub fn machine() -> Self {
        let folder = Folder::new();
        overlay(folder.path(), &setting("COFFERDAM_MACHINE"));
        let mut config = base_config(&["/sbin/init"]);
        let capabilities = json!(MACHINE_CAPABILITIES);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = capabilities.clone();
        }
        config["process"]["noNewPrivileges"] = json!(false);
        for paths in ["maskedPaths", "readonlyPaths"] {
            config["linux"][paths] = json!([]);
        }
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "cgroup" }));
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/sys");
        let options = json!(["nosuid", "noexec", "nodev"]);
        for (kind, place) in [("sysfs", "/sys"), ("cgroup2", "/sys/fs/cgroup")] {
            mounts.push(
                json!({ "destination": place, "type": kind, "source": kind, "options": options }),
            );
        }
        for place in ["/run", "/tmp", "/var/lib/docker"] {
            mounts.push(json!({ "destination": place, "type": "tmpfs", "source": "tmpfs" }));
        }
        Self { folder: Rc::new(folder), config }.written()
    }

    /// Changes `config.json`.
    #[must_use]
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.config);
        self.written()
    }

    /// Adds a mount.
    #[must_use]
    pub fn mount(self, mount: Value) -> Self {
        self.edit(|config| config["mounts"].as_array_mut().unwrap().push(mount))
    }

    /// Leaves out a namespace.
    #[must_use]
    pub fn without_namespace(self, kind: &str) -> Self {
        self.edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != kind);
        })
    }

    /// Replaces the text of `config.json` by anything at all.
    #[must_use]
    pub fn with_config_text(self, text: &str) -> Self {
        fs::write(self.path().join("config.json"), text).unwrap();
        self
    }

    /// The bundle's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Its root file system.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    fn of(rootfs: &str, args: &[&str]) -> Self {
        let folder = Folder::new();
        let copied = Command::new("cp")
            .args(["-a", "--reflink=auto", rootfs])
            .arg(folder.path().join("rootfs"))
            .status()
            .unwrap();
        assert!(copied.success(), "cannot copy {rootfs}");
        Self { folder: Rc::new(folder), config: base_config(args) }.written()
    }

    fn written(self) -> Self {
        let text = serde_json::to_string_pretty(&self.config).unwrap();
        fs::write(self.path().join("config.json"), text).unwrap();
        self
    }
}

/// What systemd and Docker use.
const MACHINE_CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_BPF",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_NICE",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RESOURCE",
];

/// Mounts a writable layer over a root file system as `rootfs` of a bundle.
fn overlay(bundle: &Path, lower: &str) {
    for name in ["upper", "work", "rootfs"] {
        fs::create_dir(bundle.join(name)).unwrap();
    }
    let layer = |name| bundle.join(name).display().to_string();
    let options = format!("lowerdir={lower},upperdir={},workdir={}", layer("upper"), layer("work"));
    let target = bundle.join("rootfs");
    mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .unwrap();
}

/// What engines write, more or less: every namespace, the usual mounts, few capabilities.
fn base_config(args: &[&str]) -> Value {
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
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "inside",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] }
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" },
                { "type": "uts" }, { "type": "mount" }
            ],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
