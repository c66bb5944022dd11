//! `config-linux.md`: namespaces, devices, limits, sysctl, seccomp, and what is hidden.

use serde_json::json;

use super::{Case, Scene, in_both_modes, seen};

/// The chapter's scenes.
pub const SCENES: &[Scene] = &[ISOLATION, USERS, RESTRICTIONS];

/// Namespaces, devices and parameters of the kernel.
pub const ISOLATION: Scene = Scene {
    bundle: |bundle| {
        let nodes = json!({ "destination": "/nodes", "type": "tmpfs", "source": "tmpfs" });
        bundle.mount(nodes).edit(|config| {
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "cgroup" }));
            config["linux"]["devices"] = json!([
                { "path": "/dev/a-null", "type": "c", "major": 1, "minor": 3,
                  "fileMode": 0o640, "uid": 7, "gid": 8 },
                { "path": "/dev/a-pipe", "type": "p", "fileMode": 0o600 }
            ]);
            config["linux"]["resources"] = json!({
                "devices": [
                    { "allow": false, "access": "rwm" },
                    { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "r" }
                ],
                "pids": { "limit": 64 }
            });
            config["linux"]["sysctl"] =
                json!({ "net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1" });
            config["linux"]["rootfsPropagation"] = json!("private");
            let capabilities = json!(["CAP_MKNOD", "CAP_DAC_OVERRIDE"]);
            for set in ["bounding", "effective", "permitted"] {
                config["process"]["capabilities"][set] = capabilities.clone();
            }
        })
    },
    cases: &[
        seen(
            "the program is process 1 of its own",
            "namespaces: pid",
            "ls /proc | grep -c '^[0-9]*$' | grep -E '^[2-9]$' > /dev/null && cut -d' ' -f1 /proc/1/stat",
        ),
        seen(
            "no network but its own lo",
            "namespaces: network",
            "ls /sys/class/net; cat /proc/net/dev | wc -l",
        ),
        seen(
            "nothing in the queues of another",
            "namespaces: ipc",
            "wc -l < /proc/sysvipc/shm; ls /dev/mqueue",
        ),
        seen(
            "its control group is its root",
            "namespaces: cgroup",
            "grep -vc ':/$' /proc/1/cgroup",
        ),
        seen(
            "the usual devices",
            "devices: default devices",
            "for d in null zero full random urandom tty; do stat -c '%n %a %t:%T %u:%g %F' /dev/$d; done",
        ),
        seen(
            "the usual links",
            "devices: default devices",
            "for l in fd stdin stdout stderr ptmx; do echo \"$l $(readlink /dev/$l)\"; done",
        ),
        seen(
            "a further device with its mode and owner",
            "devices",
            "stat -c '%a %t:%T %u:%g %F' /dev/a-null",
        ),
        seen("a pipe as a device", "devices", "stat -c '%a %u:%g %F' /dev/a-pipe"),
        seen(
            "a device that may only be read",
            "resources: devices",
            "cat /dev/a-null; echo x > /dev/a-null",
        ),
        seen(
            "a device that nobody allowed cannot be opened",
            "resources: devices",
            "mknod /nodes/kmsg c 1 11; cat /nodes/kmsg | head -c 0",
        ),
        seen(
            "parameters of the kernel",
            "sysctl",
            "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced",
        ),
        seen(
            "the root does not propagate",
            "rootfsPropagation",
            "grep ' / / ' /proc/self/mountinfo | grep -cE 'shared|master'",
        ),
        seen(
            "a limit of processes holds",
            "resources: pids",
            "for i in $(seq 80); do sleep 2 & done 2>&1 | grep -q 'fork' && echo refused",
        ),
        seen(
            "what is masked is empty",
            "maskedPaths",
            "ls /sys/firmware | wc -l; cat /proc/keys | wc -c; cat /proc/timer_list | wc -c",
        ),
        seen(
            "what is read-only cannot be written",
            "readonlyPaths",
            "echo 1 > /proc/sys/kernel/pid_max; touch /proc/irq/x; touch /proc/fs/x",
        ),
    ],
};

/// Users of its own.
pub const USERS: Scene = Scene {
    bundle: |bundle| {
        for name in ["", "tmp"] {
            let given =
                std::os::unix::fs::lchown(bundle.rootfs().join(name), Some(70000), Some(80000));
            given.unwrap();
        }
        bundle.edit(|config| {
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
            config["linux"]["uidMappings"] =
                json!([{ "containerID": 0, "hostID": 70000, "size": 1000 }]);
            config["linux"]["gidMappings"] =
                json!([{ "containerID": 0, "hostID": 80000, "size": 900 }]);
            config["process"]["capabilities"] = json!({});
        })
    },
    cases: &[
        seen(
            "the maps",
            "user namespace mappings",
            "tr -s ' ' < /proc/self/uid_map; tr -s ' ' < /proc/self/gid_map",
        ),
        seen(
            "root inside owns what is its own outside",
            "user namespace mappings",
            "id -u; touch /tmp/x && stat -c '%u:%g' /tmp/x",
        ),
        seen(
            "what is another's stays another's",
            "user namespace mappings",
            "touch /bin/x; stat -c '%u:%g' /bin",
        ),
    ],
};

/// A filter of system calls.
pub const RESTRICTIONS: Scene = Scene {
    bundle: |bundle| {
        bundle.edit(|config| {
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                "syscalls": [
                    { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
                    { "names": ["no_such_call", "symlink", "symlinkat"], "action": "SCMP_ACT_ERRNO" },
                    { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 39,
                      "args": [{ "index": 1, "value": 10, "op": "SCMP_CMP_EQ" }] },
                    { "names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS" }
                ]
            });
            config["linux"]["personality"] = json!({ "domain": "LINUX32" });
        })
    },
    cases: &[
        seen("a call fails with the number that is named", "seccomp", "mkdir /tmp/a"),
        seen("a call fails with EPERM where none is named", "seccomp", "ln -s a /tmp/b"),
        seen("an argument decides", "seccomp", "kill -USR1 1; kill -0 1 && echo sent"),
        seen("a call ends the process", "seccomp", "hostname x; echo $?"),
        seen("the filter is in force", "seccomp", "grep ^Seccomp: /proc/self/status"),
        Case {
            name: "the machine's name of an execution domain",
            section: "personality",
            look: "uname -m",
            differs: &in_both_modes("i686", "runc 1.1 does not know the field"),
        },
    ],
};
