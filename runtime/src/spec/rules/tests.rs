use serde_json::{Value, json};

use super::*;

/// The template with one value replaced (or removed, by null), checked.
fn check_with(pointer: &str, value: Value) -> Result<(), InvalidSpec> {
    let mut document: Value = serde_json::from_str(crate::spec::template::ROOTFUL).unwrap();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap();
    match (parent, value) {
        (Value::Object(object), Value::Null) => {
            object.remove(key);
        }
        (Value::Object(object), value) => {
            object.insert(key.to_owned(), value);
        }
        (other, value) => other[key.parse::<usize>().unwrap()] = value,
    }
    check(&serde_json::from_value(document).unwrap())
}

fn refusal(pointer: &str, value: Value) -> String {
    check_with(pointer, value).unwrap_err().to_string()
}

#[test]
fn the_template_passes() {
    check_with("/hostname", json!("x")).unwrap();
}

#[test]
fn versions_up_to_the_newest_known_pass() {
    for version in ["1.0.0", "1.0.2-dev", "1.1.0-rc.2", "1.2.1", "1.3.0+dev"] {
        check_with("/ociVersion", json!(version)).unwrap();
    }
    for version in ["", "1", "1.2", "0.9.0", "2.0.0", "1.4.0", "1.x.0", "one"] {
        let expected = format!("ociVersion {version:?} is not supported: 1.0.0 to 1.3 are");
        assert_eq!(refusal("/ociVersion", json!(version)), expected);
    }
}

/// Every rule but the two that have tests of their own: where, what, and what is said.
const REFUSED: &[(&str, &str, &str)] = &[
    ("/root", "null", "root is missing"),
    ("/root/path", r#""""#, "root.path is empty"),
    ("/process", "null", "process is missing"),
    ("/linux", "null", "linux is missing"),
    (
        "/windows",
        r#"{"layerFolders": []}"#,
        "windows is not for containers on Linux, or shaped by the operator's configuration",
    ),
    ("/hostname", r#""a\u0000""#, "hostname has a NUL in it"),
    (
        "/domainname",
        r#""01234567890123456789012345678901234567890123456789012345678901234""#,
        "domainname is \"0123456789012345678901234567890123456789012345678901234567890123\"; allowed is at most 64 bytes",
    ),
    ("/annotations", r#"{"": "x"}"#, "annotations is \"\"; allowed is keys that are not empty"),
    // process
    ("/process/args", "[]", "process.args is empty"),
    ("/process/args", "null", "process.args is empty"),
    ("/process/args", r#"["a", "b\u0000"]"#, "process.args[1] has a NUL in it"),
    ("/process/env", r#"["A=\u0000"]"#, "process.env[0] has a NUL in it"),
    ("/process/cwd", r#""home""#, "process.cwd is \"home\", which is not an absolute path"),
    ("/process/cwd", r#""/a\u0000""#, "process.cwd has a NUL in it"),
    (
        "/process/consoleSize",
        r#"{"height": 65536, "width": 1}"#,
        "process.consoleSize.height is 65536; allowed is 0 to 65535",
    ),
    (
        "/process/consoleSize",
        r#"{"height": 1, "width": 65536}"#,
        "process.consoleSize.width is 65536; allowed is 0 to 65535",
    ),
    (
        "/process/user",
        r#"{"uid": 4294967295, "gid": 0}"#,
        "process.user.uid is 4294967295; allowed is 0 to 4294967294",
    ),
    (
        "/process/user",
        r#"{"uid": 0, "gid": 4294967295}"#,
        "process.user.gid is 4294967295; allowed is 0 to 4294967294",
    ),
    (
        "/process/user",
        r#"{"uid": 0, "gid": 0, "umask": 512}"#,
        "process.user.umask is 512; allowed is 0 to 511 (0777)",
    ),
    (
        "/process/user",
        r#"{"uid": 0, "gid": 0, "additionalGids": [1, 4294967295]}"#,
        "process.user.additionalGids[1] is 4294967295; allowed is 0 to 4294967294",
    ),
    (
        "/process/rlimits",
        r#"[{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]"#,
        "process.rlimits[0].soft is 2; allowed is 0 to the hard limit",
    ),
    (
        "/process/rlimits",
        r#"[{"type": "RLIMIT_CPU"}, {"type": "RLIMIT_CPU"}]"#,
        "process.rlimits[1].type is \"RLIMIT_CPU\"; allowed is each limit once",
    ),
    ("/process/oomScoreAdj", "1001", "process.oomScoreAdj is 1001; allowed is -1000 to 1000"),
    ("/process/apparmorProfile", r#""\u0000""#, "process.apparmorProfile has a NUL in it"),
    ("/process/selinuxLabel", r#""\u0000""#, "process.selinuxLabel has a NUL in it"),
    (
        "/process/ioPriority",
        r#"{"class": "IOPRIO_CLASS_BE", "priority": 8}"#,
        "process.ioPriority.priority is 8; allowed is 0 to 7",
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_ISO"}"#,
        "process.scheduler.policy is \"SCHED_ISO\"; allowed is a policy that Linux has: SCHED_ISO is reserved and not implemented",
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_OTHER", "nice": 20}"#,
        "process.scheduler.nice is 20; allowed is -20 to 19",
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_OTHER", "priority": 1}"#,
        "process.scheduler.priority is 1; allowed is 0 but with SCHED_FIFO and SCHED_RR",
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_FIFO"}"#,
        "process.scheduler.priority is 0; allowed is 1 to 99 with this policy",
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_BATCH", "runtime": 9}"#,
        "process.scheduler.runtime is 9; allowed is 0 but with SCHED_DEADLINE",
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_DEADLINE", "runtime": 9}"#,
        "process.scheduler.runtime is 9; allowed is at least 1024 nanoseconds",
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 1999}"#,
        "process.scheduler.deadline is 1999; allowed is at least the runtime",
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 2000, "period": 1}"#,
        "process.scheduler.period is 1; allowed is at least the deadline",
    ),
    (
        "/process/execCPUAffinity",
        r#"{"final": "3-1"}"#,
        "process.execCPUAffinity.final is \"3-1\"; allowed is a list of numbers and ranges: 0-2,7",
    ),
    // mounts
    ("/mounts", r#"[{"destination": ""}]"#, "mounts[0].destination is empty"),
    ("/mounts", r#"[{"destination": "/a\u0000"}]"#, "mounts[0].destination has a NUL in it"),
    ("/mounts", r#"[{"destination": "/a", "type": "\u0000"}]"#, "mounts[0].type has a NUL in it"),
    (
        "/mounts",
        r#"[{"destination": "/a", "source": "\u0000"}]"#,
        "mounts[0].source has a NUL in it",
    ),
    ("/mounts", r#"[{"destination": "/a", "type": "bind"}]"#, "mounts[0].source is empty"),
    (
        "/mounts",
        r#"[{"destination": "/a", "options": ["ro", "x\u0000"]}]"#,
        "mounts[0].options[1] has a NUL in it",
    ),
    (
        "/mounts",
        r#"[{"destination": "/a", "source": "/a", "type": "bind", "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}]"#,
        "mounts[0].uidMappings is there without gidMappings of the same mount",
    ),
    (
        "/mounts",
        r#"[{"destination": "/a", "type": "tmpfs", "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}]"#,
        "mounts[0].uidMappings is there without a bind mount",
    ),
    // hooks
    (
        "/hooks",
        r#"{"poststop": [{"path": "/ok"}, {"path": "x"}]}"#,
        "hooks.poststop[1].path is \"x\", which is not an absolute path",
    ),
    (
        "/hooks",
        r#"{"prestart": [{"path": "/x", "timeout": 0}]}"#,
        "hooks.prestart[0].timeout is 0; allowed is 1 to 4294967295 seconds",
    ),
    (
        "/hooks",
        r#"{"startContainer": [{"path": "/x", "args": ["\u0000"]}]}"#,
        "hooks.startContainer[0].args[0] has a NUL in it",
    ),
    (
        "/hooks",
        r#"{"poststart": [{"path": "/x", "env": ["\u0000"]}]}"#,
        "hooks.poststart[0].env[0] has a NUL in it",
    ),
    // linux
    (
        "/linux/namespaces",
        r#"[{"type": "mount"}, {"type": "pid"}, {"type": "pid"}]"#,
        "linux.namespaces[2] is a second pid namespace",
    ),
    (
        "/linux/namespaces",
        r#"[{"type": "pid"}, {"type": "uts"}]"#,
        "linux.namespaces has no mount namespace",
    ),
    (
        "/linux/namespaces",
        r#"[{"type": "mount"}]"#,
        "hostname is there without a uts namespace in linux.namespaces",
    ),
    (
        "/linux/namespaces",
        r#"[{"type": "mount"}, {"type": "uts", "path": "ns"}]"#,
        "linux.namespaces[1].path is \"ns\", which is not an absolute path",
    ),
    (
        "/linux/namespaces",
        r#"[{"type": "mount"}, {"type": "uts"}, {"type": "user"}]"#,
        "linux.namespaces has a new user namespace, but linux.uidMappings is missing",
    ),
    (
        "/linux/uidMappings",
        r#"[{"containerID": 0, "hostID": 1000, "size": 1}]"#,
        "linux.uidMappings is there without a user namespace in linux.namespaces",
    ),
    (
        "/linux/uidMappings",
        r#"[{"containerID": 0, "hostID": 1000, "size": 0}]"#,
        "linux.uidMappings[0].size is 0; allowed is 1 or more",
    ),
    (
        "/linux/gidMappings",
        r#"[{"containerID": 1, "hostID": 1000, "size": 4294967295}]"#,
        "linux.gidMappings[0].size is 4294967295; allowed is what ends at 4294967294",
    ),
    (
        "/linux/gidMappings",
        r#"[{"containerID": 0, "hostID": 1000, "size": 10}, {"containerID": 9, "hostID": 5, "size": 1}]"#,
        "linux.gidMappings[1].containerID is 9; allowed is ranges that do not overlap",
    ),
    (
        "/linux/gidMappings",
        r#"[{"containerID": 0, "hostID": 1000, "size": 10}, {"containerID": 10, "hostID": 1009, "size": 1}]"#,
        "linux.gidMappings[1].hostID is 1009; allowed is ranges that do not overlap",
    ),
    (
        "/linux/timeOffsets",
        r#"{"realtime": {"secs": 1}}"#,
        "linux.timeOffsets is \"realtime\"; allowed is monotonic and boottime",
    ),
    (
        "/linux/timeOffsets",
        r#"{"boottime": {"nanosecs": 1000000000}}"#,
        "linux.timeOffsets.boottime.nanosecs is 1000000000; allowed is 0 to 999999999",
    ),
    (
        "/linux/timeOffsets",
        r#"{"boottime": {"secs": 1}}"#,
        "linux.timeOffsets is there without a time namespace in linux.namespaces",
    ),
    (
        "/linux/devices",
        r#"[{"path": "", "type": "c", "major": 1, "minor": 1}]"#,
        "linux.devices[0].path is empty",
    ),
    (
        "/linux/devices",
        r#"[{"path": "/a", "type": "a", "major": 1, "minor": 1}]"#,
        "linux.devices[0].type is \"a\"; allowed is b, c, u or p",
    ),
    (
        "/linux/devices",
        r#"[{"path": "/a", "type": "c", "major": -1, "minor": 1}]"#,
        "linux.devices[0].major is -1; allowed is 0 to 4095",
    ),
    (
        "/linux/devices",
        r#"[{"path": "/a", "type": "c", "major": 1, "minor": 1048576}]"#,
        "linux.devices[0].minor is 1048576; allowed is 0 to 1048575",
    ),
    (
        "/linux/devices",
        r#"[{"path": "/a", "type": "p", "uid": 4294967295}]"#,
        "linux.devices[0].uid is 4294967295; allowed is 0 to 4294967294",
    ),
    (
        "/linux/devices",
        r#"[{"path": "/a", "type": "p", "gid": 4294967295}]"#,
        "linux.devices[0].gid is 4294967295; allowed is 0 to 4294967294",
    ),
    (
        "/linux/netDevices",
        r#"{"a/b": {}}"#,
        "linux.netDevices is \"a/b\"; allowed is names of 1 to 15 bytes, without slashes, colons and spaces",
    ),
    (
        "/linux/netDevices",
        r#"{"a": {"name": "x:y"}}"#,
        "linux.netDevices.a.name is \"x:y\"; allowed is names of 1 to 15 bytes, without slashes, colons and spaces",
    ),
    ("/linux/cgroupsPath", r#""/a\u0000""#, "linux.cgroupsPath has a NUL in it"),
    (
        "/linux/sysctl",
        r#"{"net..x": "1"}"#,
        "linux.sysctl is \"net..x\"; allowed is names of kernel parameters: net.core.somaxconn",
    ),
    ("/linux/sysctl", r#"{"net.x": "\u0000"}"#, "linux.sysctl.net.x has a NUL in it"),
    (
        "/linux/rootfsPropagation",
        r#""rr""#,
        "linux.rootfsPropagation is \"rr\"; allowed is private, shared, slave or unbindable, or one of these with an r for the whole tree",
    ),
    (
        "/linux/maskedPaths",
        r#"["proc"]"#,
        "linux.maskedPaths[0] is \"proc\", which is not an absolute path",
    ),
    (
        "/linux/readonlyPaths",
        r#"["/a", "b"]"#,
        "linux.readonlyPaths[1] is \"b\", which is not an absolute path",
    ),
    (
        "/linux/memoryPolicy",
        r#"{"mode": "MPOL_LOCAL", "nodes": "0"}"#,
        "linux.memoryPolicy.nodes is \"0\"; allowed is none with this mode",
    ),
    ("/linux/memoryPolicy", r#"{"mode": "MPOL_BIND"}"#, "linux.memoryPolicy.nodes is empty"),
    (
        "/linux/memoryPolicy",
        r#"{"mode": "MPOL_BIND", "nodes": "x"}"#,
        "linux.memoryPolicy.nodes is \"x\"; allowed is a list of numbers and ranges: 0-2,7",
    ),
    (
        "/linux/memoryPolicy",
        r#"{"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}"#,
        "linux.memoryPolicy.flags is both; allowed is one of MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES",
    ),
    // linux.seccomp
    (
        "/linux/seccomp",
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}"#,
        "linux.seccomp.defaultErrnoRet is 4096; allowed is 0 to 4095",
    ),
    (
        "/linux/seccomp",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}"#,
        "linux.seccomp.defaultErrnoRet is 1; allowed is no number but with SCMP_ACT_ERRNO and SCMP_ACT_TRACE",
    ),
    (
        "/linux/seccomp",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}"#,
        "linux.seccomp.listenerMetadata is there without linux.seccomp.listenerPath",
    ),
    (
        "/linux/seccomp",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}"#,
        "linux.seccomp.syscalls[0].names is empty",
    ),
    (
        "/linux/seccomp",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_TRACE", "errnoRet": 65536}]}"#,
        "linux.seccomp.syscalls[0].errnoRet is 65536; allowed is 0 to 65535",
    ),
    (
        "/linux/seccomp",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_LOG",
        "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
        "linux.seccomp.syscalls[0].args[0].index is 6; allowed is 0 to 5",
    ),
    // linux.resources
    (
        "/linux/resources/devices",
        r#"[{"allow": true, "type": "p"}]"#,
        "linux.resources.devices[0].type is \"p\"; allowed is a, b, c or u",
    ),
    (
        "/linux/resources/devices",
        r#"[{"allow": true, "type": "c", "major": -2}]"#,
        "linux.resources.devices[0].major is -2; allowed is 0 to 4095, or -1 for all",
    ),
    (
        "/linux/resources/devices",
        r#"[{"allow": true, "type": "c", "minor": 1048576}]"#,
        "linux.resources.devices[0].minor is 1048576; allowed is 0 to 1048575, or -1 for all",
    ),
    (
        "/linux/resources/devices",
        r#"[{"allow": true, "type": "c", "access": "rx"}]"#,
        "linux.resources.devices[0].access is \"rx\"; allowed is letters of rwm",
    ),
    (
        "/linux/resources/memory",
        r#"{"limit": -2}"#,
        "linux.resources.memory.limit is -2; allowed is -1 (no limit) or a number of bytes",
    ),
    (
        "/linux/resources/memory",
        r#"{"reservation": -2}"#,
        "linux.resources.memory.reservation is -2; allowed is -1 (no limit) or a number of bytes",
    ),
    (
        "/linux/resources/memory",
        r#"{"swap": 1}"#,
        "linux.resources.memory.swap is there without linux.resources.memory.limit",
    ),
    (
        "/linux/resources/memory",
        r#"{"swap": 1, "limit": 2}"#,
        "linux.resources.memory.swap is 1; allowed is memory.limit or more",
    ),
    (
        "/linux/resources/memory",
        r#"{"swappiness": 101}"#,
        "linux.resources.memory.swappiness is 101; allowed is 0 to 100",
    ),
    (
        "/linux/resources/cpu",
        r#"{"shares": 262145}"#,
        "linux.resources.cpu.shares is 262145; allowed is 2 to 262144, or 0 for none",
    ),
    (
        "/linux/resources/cpu",
        r#"{"quota": 999}"#,
        "linux.resources.cpu.quota is 999; allowed is 1000 microseconds or more, 0 for none, or -1 (no limit)",
    ),
    (
        "/linux/resources/cpu",
        r#"{"period": 999}"#,
        "linux.resources.cpu.period is 999; allowed is 1000 to 1000000 microseconds, or 0 for the default",
    ),
    (
        "/linux/resources/cpu",
        r#"{"quota": 1000, "burst": 1001}"#,
        "linux.resources.cpu.burst is 1001; allowed is 0 to the quota",
    ),
    ("/linux/resources/cpu", r#"{"idle": 2}"#, "linux.resources.cpu.idle is 2; allowed is 0 or 1"),
    (
        "/linux/resources/cpu",
        r#"{"realtimeRuntime": -2}"#,
        "linux.resources.cpu.realtimeRuntime is -2; allowed is -1 or more microseconds",
    ),
    (
        "/linux/resources/cpu",
        r#"{"cpus": "x"}"#,
        "linux.resources.cpu.cpus is \"x\"; allowed is a list of numbers and ranges: 0-2,7",
    ),
    (
        "/linux/resources/cpu",
        r#"{"mems": "1-0"}"#,
        "linux.resources.cpu.mems is \"1-0\"; allowed is a list of numbers and ranges: 0-2,7",
    ),
    (
        "/linux/resources/blockIO",
        r#"{"weight": 9}"#,
        "linux.resources.blockIO.weight is 9; allowed is 10 to 1000, or 0 for none",
    ),
    (
        "/linux/resources/blockIO",
        r#"{"leafWeight": 1001}"#,
        "linux.resources.blockIO.leafWeight is 1001; allowed is 10 to 1000, or 0 for none",
    ),
    (
        "/linux/resources/blockIO",
        r#"{"weightDevice": [{"major": -1, "minor": 0, "weight": 10}]}"#,
        "linux.resources.blockIO.weightDevice[0].major is -1; allowed is 0 to 4095",
    ),
    (
        "/linux/resources/blockIO",
        r#"{"throttleReadIOPSDevice": [{"major": 8, "minor": -1, "rate": 10}]}"#,
        "linux.resources.blockIO.throttleReadIOPSDevice[0].minor is -1; allowed is 0 to 1048575",
    ),
    (
        "/linux/resources/hugepageLimits",
        r#"[{"pageSize": "2mb", "limit": 0}]"#,
        "linux.resources.hugepageLimits[0].pageSize is \"2mb\"; allowed is a number and KB, MB or GB: 2MB",
    ),
    (
        "/linux/resources/hugepageLimits",
        r#"[{"pageSize": "2MB", "limit": -2}]"#,
        "linux.resources.hugepageLimits[0].limit is -2; allowed is -1 (no limit) or a number of bytes",
    ),
    (
        "/linux/resources/network",
        r#"{"priorities": [{"name": "", "priority": 1}]}"#,
        "linux.resources.network.priorities[0].name is empty",
    ),
    ("/linux/resources/rdma", r#"{"mlx": {}}"#, "linux.resources.rdma.mlx is empty"),
    (
        "/linux/resources/unified",
        r#"{"../x.y": "1"}"#,
        "linux.resources.unified is \"../x.y\"; allowed is files of a cgroup: memory.high",
    ),
    (
        "/linux/resources/unified",
        r#"{"memory.high": "\u0000"}"#,
        "linux.resources.unified.memory.high has a NUL in it",
    ),
];

#[test]
fn what_is_wrong_is_named_with_its_value_and_what_is_allowed() {
    for (pointer, value, expected) in REFUSED {
        assert_eq!(refusal(pointer, serde_json::from_str(value).unwrap()), *expected);
    }
}

/// What engines write, or runc takes, although it looks odd.
const TAKEN: &[(&str, &str)] = &[
    ("/hostname", r#""""#),
    ("/mounts", r#"[{"destination": "tmp", "type": "tmpfs"}]"#),
    ("/linux/rootfsPropagation", r#""""#),
    ("/linux/rootfsPropagation", r#""rslave""#),
    (
        "/linux/devices",
        r#"[{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 8630}]"#,
    ),
    ("/linux/namespaces", r#"[{"type": "mount"}, {"type": "uts", "path": ""}]"#),
    ("/linux/sysctl", r#"{"net/ipv4/ip_forward": "1", "net.ipv4.conf.eth0/1.rp_filter": "1"}"#),
    (
        "/linux/resources/memory",
        r#"{"limit": -1, "swap": -1, "reservation": 0, "swappiness": 100}"#,
    ),
    ("/linux/resources/memory", r#"{"limit": 1, "swap": -1}"#),
    (
        "/linux/resources/cpu",
        r#"{"shares": 0, "quota": -9999, "period": 0, "cpus": "", "mems": "0"}"#,
    ),
    ("/linux/resources/cpu", r#"{"shares": 1, "burst": 5}"#),
    (
        "/linux/resources/devices",
        r#"[{"allow": true, "type": "a", "major": -1, "minor": -1, "access": "rwm"}]"#,
    ),
    ("/linux/resources/pids", r#"{"limit": -1}"#),
    ("/linux/seccomp", r#"{"defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 65535}"#),
    ("/process/scheduler", r#"{"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 2000}"#),
    ("/process/execCPUAffinity", r#"{"initial": "0-3,7"}"#),
];

#[test]
fn paths_from_nowhere_begin_at_the_root_for_whoever_wants_that() {
    let mut spec: Spec = serde_json::from_value(serde_json::json!({
        "ociVersion": "1.0.2",
        "linux": {"maskedPaths": ["a", "/b"], "readonlyPaths": ["c/d", ""]},
    }))
    .unwrap();
    complete_paths(&mut spec);
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.masked_paths().as_deref().unwrap(), ["/a", "/b"]);
    assert_eq!(linux.readonly_paths().as_deref().unwrap(), ["/c/d", ""]);
}

#[test]
fn what_engines_write_is_taken() {
    for (pointer, value) in TAKEN {
        check_with(pointer, serde_json::from_str(value).unwrap())
            .unwrap_or_else(|error| panic!("{pointer} {value}: {error}"));
    }
}
