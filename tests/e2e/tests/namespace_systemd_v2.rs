//! `--systemd-cgroup` in namespaces: the container is in a scope that systemd has made, whether there is
//! a D-Bus daemon or, as here, systemd's own socket only.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::Path;

use cofferdam_e2e::{Bundle, Leftovers, Mode, Runtime, Systemd};
use serde_json::json;

const MIB: u64 = 1 << 20;

fn runtime() -> Runtime {
    Runtime::cofferdam_with(&["--isolation", Mode::current().flag(), "--systemd-cgroup"])
}

fn bundle() -> Bundle {
    Bundle::busybox(&["sleep", "1000"]).edit(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 64 * MIB });
        config["linux"]["resources"]["pids"] = json!({ "limit": 20 });
        config["linux"]["resources"]["cpu"] = json!({ "quota": 50_000, "period": 100_000 });
    })
}

fn scope_of(id: &str) -> String {
    format!("/sys/fs/cgroup/system.slice/cofferdam-{id}.scope")
}

fn limits(scope: &Path) -> [String; 3] {
    ["memory.max", "pids.max", "cpu.max"]
        .map(|name| fs::read_to_string(scope.join(name)).unwrap_or_default().trim().to_owned())
}

/// A process's number here, where systemd and the runtime are, and inside. There must be one alone.
fn numbers_of(process: &str) -> Vec<i32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    numbers.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

#[test]
fn the_container_alone_is_in_its_scope_and_the_limits_outlive_a_reload() {
    let runtime = runtime();
    let systemd = Systemd::start(&runtime.tag());
    let runtime = runtime.under(&systemd);
    let before = Leftovers::before(&runtime);
    let container = runtime.start(&bundle());
    let scope = systemd.group(&scope_of(&container.id));
    let inside = fs::read_to_string(scope.join("cgroup.procs")).unwrap();
    assert_eq!(numbers_of(inside.trim()).get(1), Some(&container.pid()), "{inside}");
    let expected = [(64 * MIB).to_string(), "20".to_owned(), "50000 100000".to_owned()];
    assert_eq!(limits(&scope), expected);
    // No line to systemd has come into the container.
    container.exec(&["ls", "/proc/1/fd"]).exits(0).prints("0\n1\n2\n");

    systemd.reload();
    assert_eq!(limits(&scope), expected);
    container.exec(&["true"]).exits(0);

    let larger = (96 * MIB).to_string();
    let update = ["update", "--memory", &larger, "--cpu-quota", "70000", "--pids-limit", "30"];
    runtime.verb(&[&update[..], &["--cpuset-cpus", "0", &container.id]].concat()).exits(0);
    let updated = [larger, "30".to_owned(), "70000 100000".to_owned()];
    assert_eq!(limits(&scope), updated);
    systemd.reload();
    assert_eq!(limits(&scope), updated);
    let cpus = fs::read_to_string(scope.join("cpuset.cpus")).unwrap();
    assert_eq!(cpus.trim(), "0");

    runtime.verb(&["delete", "--force", &container.id]).exits(0);
    assert!(!scope.exists());
    before.none_since(&runtime);
}

#[test]
fn a_scope_that_goes_is_not_made_again_by_a_reload() {
    let runtime = runtime();
    let systemd = Systemd::start(&runtime.tag());
    let runtime = runtime.under(&systemd);
    let before = Leftovers::before(&runtime);
    let container = runtime.start(&bundle());
    let scope = systemd.group(&scope_of(&container.id));
    assert!(systemd.reload_in_deletion(&runtime, &container.id, &scope));
    assert!(!scope.exists());
    before.none_since(&runtime);
}

#[test]
fn a_scope_that_somebody_has_is_refused_and_stays_as_it_is() {
    let runtime = runtime();
    let systemd = Systemd::start(&runtime.tag());
    let runtime = runtime.under(&systemd);
    let path = format!("system.slice:shared:{}", runtime.tag());
    let bundle = bundle().edit(|config| config["linux"]["cgroupsPath"] = json!(path));
    let container = runtime.start(&bundle);
    runtime.run(&bundle).exits(1).complains(&["container's cgroup is not empty", &path]);
    assert_eq!(container.status(), "running");
    container.exec(&["true"]).exits(0);
}
