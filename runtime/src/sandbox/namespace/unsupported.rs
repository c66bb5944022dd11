//! What a spec may ask for that namespace mode does not do: refused by name. `libcontainer` passes
//! over some of these without a word, and a limit or a protection that is not there must not look
//! as if it were.

use std::fmt;

use oci_spec::runtime::{Linux, LinuxSeccomp, LinuxSeccompAction, Mount, Process, Spec};

use crate::spec::rules::has_user_namespace;

/// A field that is asked for and not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Where it is in `config.json`: `linux.intelRdt`.
    pub path: String,
    /// Why not, in a few words.
    pub reason: &'static str,
    /// It means nothing on this host, and runc passes over it: `--compat` does so with a warning.
    pub is_idle: bool,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path, self.reason)
    }
}

pub(super) fn list(unsupported: &[Unsupported]) -> String {
    unsupported.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Every field of the spec that is set and that namespace mode would have to ignore.
#[must_use]
pub fn unsupported(spec: &Spec) -> Vec<Unsupported> {
    let mut found = Found(Vec::new());
    if let Some(process) = spec.process() {
        in_process(process, &mut found);
    }
    for (i, mount) in spec.mounts().iter().flatten().enumerate() {
        in_mount(i, mount, has_user_namespace(spec), &mut found);
    }
    if let Some(linux) = spec.linux() {
        in_linux(linux, &mut found);
    }
    found.set(spec.solaris().is_some(), "solaris", "another platform");
    found.set(spec.windows().is_some(), "windows", "another platform");
    found.set(spec.vm().is_some(), "vm", "another platform");
    found.0
}

struct Found(Vec<Unsupported>);

impl Found {
    fn set(&mut self, is_set: bool, path: impl Into<String>, reason: &'static str) {
        if is_set {
            self.0.push(Unsupported { path: path.into(), reason, is_idle: false });
        }
    }

    fn set_idle(&mut self, is_set: bool, path: &str, reason: &'static str) {
        if is_set {
            self.0.push(Unsupported { path: path.to_owned(), reason, is_idle: true });
        }
    }
}

/// What a process may not ask for, in `create` and in `exec`.
pub(super) fn in_exec(process: &Process) -> Vec<Unsupported> {
    let mut found = Found(Vec::new());
    in_process(process, &mut found);
    found.0
}

fn in_process(process: &Process, found: &mut Found) {
    let is_set = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
    found.set(
        is_set(process.selinux_label()),
        "process.selinuxLabel",
        "SELinux labels are not supported",
    );
    found.set(is_set(process.command_line()), "process.commandLine", "another platform");
    found.set(
        is_set(process.apparmor_profile()) && !apparmor_is_enabled(),
        "process.apparmorProfile",
        "AppArmor is not enabled on this host",
    );
}

fn apparmor_is_enabled() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with('Y'))
}

/// Options that mean something and that the new mount API calls of `libcontainer` do not carry.
const MOUNT_OPTIONS: [(&str, &str); 3] = [
    ("copy-symlink", "not implemented"),
    ("remount", "not implemented"),
    ("mand", "removed from Linux"),
];

fn in_mount(number: usize, mount: &Mount, has_user_namespace: bool, found: &mut Found) {
    let mapped = mount.uid_mappings().as_ref().is_some_and(|m| !m.is_empty());
    for option in ["idmap", "ridmap"] {
        let is_set = mount.options().iter().flatten().any(|o| o == option);
        found.set(
            is_set && !mapped && !has_user_namespace,
            format!("mounts[{number}].options: {option}"),
            "id-mapped mounts need mappings of their own, or a user namespace",
        );
    }
    for (option, reason) in MOUNT_OPTIONS {
        let is_set = mount.options().iter().flatten().any(|o| o == option);
        found.set(is_set, format!("mounts[{number}].options: {option}"), reason);
    }
}

fn in_linux(linux: &Linux, found: &mut Found) {
    found.set(linux.intel_rdt().is_some(), "linux.intelRdt", "not implemented");
    let label = linux.mount_label().as_ref().is_some_and(|label| !label.is_empty());
    let reason = "SELinux labels are not supported";
    if selinux_is_enabled() {
        found.set(label, "linux.mountLabel", reason);
    } else {
        found.set_idle(label, "linux.mountLabel", reason);
    }
    found.set(
        linux.personality().as_ref().is_some_and(|p| p.flags().iter().flatten().next().is_some()),
        "linux.personality.flags",
        "not implemented",
    );
    if let Some(resources) = linux.resources() {
        let unified = resources.unified().as_ref().is_some_and(|unified| !unified.is_empty());
        found.set(
            unified && !super::cgroup::is_unified(),
            "linux.resources.unified",
            "invalid configuration: the values are of cgroup v2, and this host has v1",
        );
        let rdma = resources.rdma().as_ref().is_some_and(|r| !r.is_empty());
        found.set(rdma, "linux.resources.rdma", "not implemented");
    }
    if let Some(seccomp) = linux.seccomp() {
        in_seccomp(seccomp, found);
    }
}

/// Without it there are no labels that a mount could have: as runc, that is no error.
fn selinux_is_enabled() -> bool {
    std::path::Path::new("/sys/fs/selinux/enforce").exists()
}

fn in_seccomp(seccomp: &LinuxSeccomp, found: &mut Found) {
    // The words are runc's.
    let notify = LinuxSeccompAction::ScmpActNotify;
    found.set(
        seccomp.default_action() == notify,
        "linux.seccomp.defaultAction",
        "SCMP_ACT_NOTIFY cannot be used as default action",
    );
    let nobody = seccomp.listener_path().as_ref().is_none_or(|path| path.as_os_str().is_empty());
    for (i, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        if rule.action() != notify {
            continue;
        }
        let path = format!("linux.seccomp.syscalls[{i}].action");
        found.set(nobody, path.clone(), "SCMP_ACT_NOTIFY needs linux.seccomp.listenerPath");
        found.set(
            rule.names().iter().any(|name| name == "write"),
            path,
            "SCMP_ACT_NOTIFY cannot be used for the write syscall",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(value: serde_json::Value) -> Vec<String> {
        let spec: Spec = serde_json::from_value(value).unwrap();
        unsupported(&spec).into_iter().map(|u| u.path).collect()
    }

    #[test]
    fn the_default_spec_is_served() {
        assert_eq!(unsupported(&Spec::default()), Vec::new());
    }

    #[test]
    fn each_field_is_named_as_it_is_in_the_file() {
        let found = paths(serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "cwd": "/", "user": {"uid": 0, "gid": 0},
                "selinuxLabel": "system_u:system_r:container_t:s0",
            },
            "mounts": [
                {"destination": "/a", "type": "bind", "source": "/a", "options": ["bind"]},
                {"destination": "/b", "type": "bind", "source": "/b", "options": ["bind", "idmap"]},
            ],
            "linux": {
                "intelRdt": {"closID": "x"},
                "seccomp": {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
                },
            },
        }));
        assert_eq!(
            found,
            [
                "process.selinuxLabel",
                "mounts[1].options: idmap",
                "linux.intelRdt",
                "linux.seccomp.syscalls[0].action",
            ]
        );
    }

    #[test]
    fn an_empty_label_asks_for_nothing() {
        let found = paths(serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "selinuxLabel": ""},
            "linux": {"mountLabel": ""},
        }));
        assert!(found.is_empty());
    }

    #[test]
    fn a_label_that_means_nothing_here_is_refused_like_any_other() {
        let spec =
            serde_json::json!({ "ociVersion": "1.0.2", "linux": {"mountLabel": "a:b:c:s0"} });
        assert_eq!(paths(spec), ["linux.mountLabel"]);
    }
}
