//! What a guest that took over its monitor would find: the walls of `docs/threat-model.md`, seen
//! from the host.

use std::fs;

use cofferdam_e2e::{Bundle, Runtime};

/// A line of `/proc/PID/status`, without its name.
fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":"));
    line.unwrap_or_default().trim().to_owned()
}

#[test]
fn the_monitor_shares_no_namespace_with_the_host() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |whose: &str| fs::read_link(format!("/proc/{whose}/ns/{kind}")).unwrap();
        assert_ne!(of(&container.pid().to_string()), of("self"), "{kind}");
    }
}

#[test]
fn the_monitor_has_no_privilege_and_gets_none() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(container.pid(), set), "0000000000000000", "{set}");
    }
    assert_eq!(status(container.pid(), "NoNewPrivs"), "1");
    assert_eq!(status(container.pid(), "Seccomp"), "2");
}

#[test]
fn the_monitors_root_is_empty() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
    let root = fs::read_dir(format!("/proc/{}/root/", container.pid())).unwrap();
    let names: Vec<_> = root.map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.is_empty(), "{names:?}");
}
