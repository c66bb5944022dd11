//! `config.md`: root, mounts, process, hostname and domainname.

use std::fs;

use serde_json::json;

use super::{Case, Scene, in_both_modes, seen};
use crate::Bundle;

/// The chapter's scenes.
pub const SCENES: &[Scene] = &[PROCESS, ROOT_OF_ITS_OWN, MOUNTS];

/// An ordinary user's process.
pub const PROCESS: Scene = Scene {
    bundle: |bundle| {
        bundle.edit(|config| {
            config["hostname"] = json!("a-name");
            config["domainname"] = json!("a-domain");
            let process = &mut config["process"];
            process["user"] =
                json!({ "uid": 1000, "gid": 1001, "umask": 0o27, "additionalGids": [5, 6] });
            process["cwd"] = json!("/made/for/it");
            process["oomScoreAdj"] = json!(100);
            process["env"] = json!(["PATH=/bin:/usr/bin", "A=b c", "EMPTY=", "A=last", "HOME=/h"]);
            process["rlimits"] = json!([
                { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
                { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
                { "type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 2_097_152 }
            ]);
        })
    },
    cases: &[
        seen("the user, the group and the further groups", "process: user", "id -u; id -g; id -G"),
        seen("the mask of new files", "process: user", "umask; cd /tmp && : > f && stat -c %a f"),
        seen("a working folder that is missing is made", "process: cwd", "pwd; stat -c '%u %g' ."),
        seen(
            "the environment, of a name twice the last",
            "process: env",
            "env | sort | grep -v PWD",
        ),
        seen(
            "limits",
            "process: rlimits",
            "grep -E 'open files|core file|stack' /proc/self/limits",
        ),
        seen(
            "the score for the want of memory",
            "process: oomScoreAdj",
            "cat /proc/self/oom_score_adj",
        ),
        seen("no new privileges", "process: noNewPrivileges", "grep NoNewPrivs /proc/self/status"),
        seen(
            "an ordinary user's capabilities",
            "process: capabilities",
            "grep ^Cap /proc/self/status",
        ),
        seen("the arguments", "process: args", "tr '\\0' '|' < /proc/1/cmdline | cut -d'|' -f 1-2"),
        seen("no terminal", "process: terminal", "tty; ls -l /proc/self/fd | grep -c /dev/pts"),
        seen("the host's name", "hostname", "hostname; cat /proc/sys/kernel/hostname"),
        Case {
            name: "the domain's name",
            section: "domainname",
            look: "cat /proc/sys/kernel/domainname",
            differs: &in_both_modes("a-domain", "runc 1.1 does not know the field"),
        },
        seen(
            "nothing but the standard descriptors is open",
            "process",
            "ls /proc/1/fd | sort -n | tr '\\n' ' '",
        ),
    ],
};

/// Root's process on a root that cannot be written.
pub const ROOT_OF_ITS_OWN: Scene = Scene {
    bundle: |bundle| {
        bundle.edit(|config| {
            config["root"]["readonly"] = json!(true);
            let sets = &mut config["process"]["capabilities"];
            *sets = json!({
                "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
                "permitted": ["CAP_CHOWN", "CAP_KILL"],
                "effective": ["CAP_CHOWN"],
                "inheritable": ["CAP_KILL"],
                "ambient": ["CAP_KILL"]
            });
            config["process"]["noNewPrivileges"] = json!(false);
        })
    },
    cases: &[
        seen(
            "a read-only root refuses files, folders and links",
            "root: readonly",
            "touch /x; mkdir /x; ln -s a /x",
        ),
        seen(
            "what is mounted on it is not read-only",
            "root: readonly",
            "touch /dev/shm/x && ls /dev/shm",
        ),
        seen(
            "the five sets of capabilities, after an exec",
            "process: capabilities",
            "grep ^Cap /proc/self/status",
        ),
        seen(
            "new privileges where they are allowed",
            "process: noNewPrivileges",
            "grep NoNewPrivs /proc/self/status",
        ),
        seen("root's folders", "root: path", "ls -a / | grep -v dockerenv"),
    ],
};

/// Mounts of all kinds.
pub const MOUNTS: Scene = Scene {
    bundle: with_mounts,
    cases: &[
        seen(
            "a folder of the host",
            "mounts: source",
            "cat /folder/file; echo new > /folder/new && cat /folder/new",
        ),
        seen(
            "a single file of the host",
            "mounts: source",
            "cat /made/a-file; echo more >> /made/a-file; cat /made/a-file",
        ),
        seen("a read-only folder", "mounts: options", "cat /ro/file; touch /ro/x"),
        seen("a link in the root is followed inside", "mounts: destination", "ls /link-target"),
        seen("later mounts cover earlier ones", "mounts", "ls /covered"),
        seen(
            "a tmpfs has its mode and size",
            "mounts: options",
            "stat -c %a /t; df -k /t | tail -n 1 | awk '{print $2}'",
        ),
        seen(
            "nosuid, nodev, noexec",
            "mounts: options",
            "grep ' /t ' /proc/mounts | cut -d' ' -f4 | tr , '\\n' | grep ^no; cp /bin/busybox /t/b; /t/b true",
        ),
        seen(
            "nodev forbids devices, where the mount is the host's too",
            "mounts: options",
            "grep ' /nodev ' /proc/mounts | cut -d' ' -f4 | tr , '\\n' | grep -E '^(nodev|nosuid|noexec)'",
        ),
        seen(
            "the kinds of the usual mounts",
            "mounts: type",
            "for p in /proc /dev /dev/pts /dev/shm /dev/mqueue /sys; do grep \" $p \" /proc/mounts | cut -d' ' -f2,3; done",
        ),
        seen(
            "sysfs is read-only",
            "mounts: options",
            "mkdir /sys/x; grep ' /sys ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1",
        ),
        seen("a tree with a mount in it", "mounts: options", "cat /tree/below/file"),
    ],
};

fn with_mounts(bundle: Bundle) -> Bundle {
    let outside = bundle.path().join("outside");
    for folder in ["folder", "ro", "first", "second", "tree/below"] {
        fs::create_dir_all(outside.join(folder)).unwrap();
        fs::write(outside.join(folder).join("file"), format!("in {folder}\n")).unwrap();
    }
    fs::write(outside.join("a-file"), "a file\n").unwrap();
    fs::write(outside.join("first/one"), "").unwrap();
    fs::write(outside.join("second/two"), "").unwrap();
    std::os::unix::fs::symlink("/link-target", bundle.rootfs().join("link")).unwrap();
    fs::create_dir(bundle.rootfs().join("link-target")).unwrap();
    let source = |name: &str| outside.join(name).display().to_string();
    let bind = |name: &str, destination: &str, options: &[&str]| json!({ "destination": destination, "type": "bind", "source": source(name), "options": options });
    bundle
        .mount(bind("folder", "/folder", &["rbind", "rw"]))
        .mount(bind("a-file", "/made/a-file", &["bind"]))
        .mount(bind("ro", "/ro", &["bind", "ro"]))
        .mount(bind("first", "/link", &["bind"]))
        .mount(bind("first", "/covered", &["bind"]))
        .mount(bind("second", "/covered", &["bind"]))
        .mount(bind("folder", "/nodev", &["bind", "nodev", "nosuid", "noexec"]))
        .mount(bind("tree", "/tree", &["rbind"]))
        .mount(json!({ "destination": "/t", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "nodev", "noexec", "mode=0751", "size=1024k"] }))
}
