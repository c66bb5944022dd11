//! `update` of a microVM: the guest's files, and what a machine that runs cannot become.

use cofferdam_e2e::{Bundle, Container, Runtime};
use serde_json::json;

/// Sees its own cgroup.
fn bundle() -> Bundle {
    Bundle::busybox(&["sleep", "1000"])
        .edit(|config| {
            config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
            config["linux"]["resources"]["cpu"] = json!({ "quota": 100_000, "period": 100_000 });
        })
        .mount(json!({
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["ro", "nosuid", "noexec", "nodev"]
        }))
}

fn file(container: &Container<'_>, name: &str) -> String {
    let outcome = container.exec(&["cat", &format!("/sys/fs/cgroup/{name}")]);
    outcome.exits(0);
    outcome.stdout.trim().to_owned()
}

#[test]
fn limits_reach_the_guests_files() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle());
    assert_eq!(file(&container, "memory.max"), (64 << 20).to_string());
    runtime
        .verb(&[
            "update",
            "--memory",
            "48M",
            "--cpu-quota",
            "30000",
            "--cpu-share",
            "512",
            "--pids-limit",
            "30",
            &container.id,
        ])
        .exits(0);
    assert_eq!(file(&container, "memory.max"), (48 << 20).to_string());
    assert_eq!(file(&container, "cpu.max"), "30000 100000");
    assert_eq!(file(&container, "cpu.weight"), "59");
    assert_eq!(file(&container, "pids.max"), "30");
    // The period that was said before goes with another quota.
    runtime.verb(&["update", "--cpu-period", "50000", &container.id]).exits(0);
    assert_eq!(file(&container, "cpu.max"), "30000 50000");
}

#[test]
fn what_a_running_machine_cannot_become_is_refused_by_its_field() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle());
    for (flags, field) in [
        (["--memory", "1g"], "linux.resources.memory.limit"),
        (["--cpu-quota", "900000"], "linux.resources.cpu.quota"),
        (["--blkio-weight", "100"], "linux.resources.blockIO.weight"),
        (["--cpuset-mems", "0"], "linux.resources.cpu.mems"),
    ] {
        let refused = runtime.verb(&["update", flags[0], flags[1], &container.id]);
        refused.exits(1).complains(&[field]);
    }
    assert_eq!(file(&container, "memory.max"), (64 << 20).to_string());
    assert_eq!(file(&container, "cpu.max"), "100000 100000");
}

#[test]
fn the_machine_moves_to_other_processors_of_the_host() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle());
    runtime.verb(&["update", "--cpuset-cpus", "0", &container.id]).exits(0);
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    container.exec(&["true"]).exits(0);
}
