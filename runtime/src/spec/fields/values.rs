//! Values that are treated otherwise than the rest of their field.

use super::Treatment::{self, Guest, Host, Refused, Void, Where};
use super::{
    FOREIGN_MOUNT, HOST_HARDWARE, HOST_LISTENER, HOST_NETWORK, OTHER_PAGES, OWN_KERNEL, Value,
};

const NOTIFY_BY_DEFAULT: &str = "SCMP_ACT_NOTIFY cannot be used as default action";
const WITH_COMPAT: &str = "it is taken with --compat only";
const GIVEN: &str = "a guest gives it to every container, asked for or not";

const fn value(
    path: &'static str,
    value: &'static str,
    patch: &'static str,
    microvm: Treatment,
    namespace: Treatment,
) -> Value {
    Value { path, value, patch, microvm, namespace }
}

pub(super) const VALUES: &[Value] = &[
    value(
        "linux.namespaces",
        "without `cgroup`",
        r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"ipc"},{"type":"uts"},
            {"type":"network"}]}}"#,
        Void(GIVEN),
        Host,
    ),
    value(
        "linux.namespaces",
        "without `network`: the host's",
        r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"ipc"},{"type":"uts"}]}}"#,
        Refused(HOST_NETWORK),
        Host,
    ),
    value(
        "linux.namespaces",
        "without `mount`: the host's",
        r#"{"linux":{"namespaces":[{"type":"network"},{"type":"pid"},{"type":"ipc"},{"type":"uts"}]}}"#,
        Refused(OWN_KERNEL),
        Where(WITH_COMPAT),
    ),
    value(
        "linux.namespaces",
        "without `pid`: the host's",
        r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"network"},{"type":"ipc"},{"type":"uts"}]}}"#,
        Refused(OWN_KERNEL),
        Host,
    ),
    value(
        "linux.namespaces",
        "without `ipc`: the host's",
        r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"network"},{"type":"pid"},{"type":"uts"}]}}"#,
        Refused(OWN_KERNEL),
        Host,
    ),
    value(
        "linux.namespaces",
        "without `uts`: the host's",
        r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"network"},{"type":"pid"},{"type":"ipc"}]}}"#,
        Refused(OWN_KERNEL),
        Host,
    ),
    value(
        "linux.namespaces[].path",
        "of a `network` namespace",
        r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"ipc"},{"type":"uts"},
            {"type":"network","path":"/run/netns/a"}]}}"#,
        Host,
        Host,
    ),
    value(
        "linux.devices[]",
        "a character device that not every kernel has: a graphics card",
        r#"{"linux":{"devices":[{"path":"/dev/dri/card0","type":"c","major":226,"minor":0}]}}"#,
        Refused(HOST_HARDWARE),
        Host,
    ),
    value(
        "linux.devices[]",
        "a block device: a disk, which the guest has as its own",
        r#"{"linux":{"devices":[{"path":"/dev/sda","type":"b","major":8,"minor":0}]}}"#,
        Guest,
        Host,
    ),
    value(
        "linux.resources.hugepageLimits[].pageSize",
        "neither `2MB` nor `1GB`",
        r#"{"linux":{"resources":{"hugepageLimits":[{"pageSize":"64KB","limit":0}]}}}"#,
        Refused(OTHER_PAGES),
        Host,
    ),
    value(
        "linux.seccomp.defaultAction",
        "`SCMP_ACT_NOTIFY`",
        r#"{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_NOTIFY"}}}"#,
        Refused(HOST_LISTENER),
        Refused(NOTIFY_BY_DEFAULT),
    ),
    value(
        "linux.seccomp.syscalls[].action",
        "`SCMP_ACT_NOTIFY`",
        r#"{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/l",
            "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}}}"#,
        Refused(HOST_LISTENER),
        Host,
    ),
    value(
        "mounts[].type",
        "a file system with a device or a server: `ext4`, `nfs`, `overlay`",
        r#"{"mounts":[{"destination":"/a","type":"nfs","source":"host:/a"}]}"#,
        Refused(FOREIGN_MOUNT),
        Host,
    ),
    option("`idmap`", OPTION_IDMAP, Host, Host),
    option("`ridmap`", OPTION_RIDMAP, Host, Host),
    option("`tmpcopyup`", OPTION_COPY_UP, Guest, Host),
    option("`nosymfollow`", OPTION_NOSYMFOLLOW, Guest, Host),
    option("`sync`", OPTION_SYNC, Guest, Host),
    option("`dirsync`", OPTION_DIRSYNC, Guest, Host),
    option("`iversion`", OPTION_IVERSION, Guest, Host),
];

const OPTION_IDMAP: &str = r#"{"mounts":[{"destination":"/a","source":"/b","options":["bind","idmap"],"uidMappings":[{"containerID":0,"hostID":1,"size":1}],"gidMappings":[{"containerID":0,"hostID":1,"size":1}]}]}"#;
const OPTION_RIDMAP: &str = r#"{"mounts":[{"destination":"/a","source":"/b","options":["bind","ridmap"],"uidMappings":[{"containerID":0,"hostID":1,"size":1}],"gidMappings":[{"containerID":0,"hostID":1,"size":1}]}]}"#;
const OPTION_COPY_UP: &str =
    r#"{"mounts":[{"destination":"/a","type":"tmpfs","options":["tmpcopyup"]}]}"#;
const OPTION_NOSYMFOLLOW: &str =
    r#"{"mounts":[{"destination":"/a","type":"tmpfs","options":["nosymfollow"]}]}"#;
const OPTION_SYNC: &str = r#"{"mounts":[{"destination":"/a","type":"tmpfs","options":["sync"]}]}"#;
const OPTION_DIRSYNC: &str =
    r#"{"mounts":[{"destination":"/a","type":"tmpfs","options":["dirsync"]}]}"#;
const OPTION_IVERSION: &str =
    r#"{"mounts":[{"destination":"/a","type":"tmpfs","options":["iversion"]}]}"#;

const fn option(
    name: &'static str,
    patch: &'static str,
    microvm: Treatment,
    namespace: Treatment,
) -> Value {
    value("mounts[].options", name, patch, microvm, namespace)
}
