//! `update` of a microVM: the guest's files, a machine that grows and shrinks while it runs, and
//! what it cannot become.

use std::fs::File;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_e2e::{Bundle, Container, Runtime};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
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
        (["--memory", "1024g"], "linux.resources.memory.limit"),
        (["--cpu-quota", "900000"], "linux.resources.cpu.quota"),
        (["--cpuset-mems", "0"], "linux.resources.cpu.mems"),
    ] {
        let refused = runtime.verb(&["update", flags[0], flags[1], &container.id]);
        refused.exits(1).complains(&[field]);
    }
    assert_eq!(file(&container, "memory.max"), (64 << 20).to_string());
    assert_eq!(file(&container, "cpu.max"), "100000 100000");
}

/// All memory of the guest, in MiB.
fn memory_mib(container: &Container<'_>) -> u64 {
    let meminfo = container.exec(&["cat", "/proc/meminfo"]).stdout;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// What the host lets the sandbox take, in MiB, where its control groups are v2.
fn host_limit_mib(container: &Container<'_>) -> Option<u64> {
    let folder = container.state()["annotations"]["dev.cofferdam.vm.cgroup"].as_str()?.to_owned();
    let limit = std::fs::read_to_string(format!("{folder}/memory.max")).ok()?;
    Some(limit.trim().parse::<u64>().ok()? >> 20)
}

#[test]
fn a_running_machine_gets_more_memory_and_gives_it_back() {
    let runtime = Runtime::cofferdam();
    let data = json!({
        "destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["size=300m"]
    });
    let container = runtime.start(&bundle().mount(data));
    let (before, limit_before) = (memory_mib(&container), host_limit_mib(&container));
    let fill = ["dd", "if=/dev/zero", "of=/data/x", "bs=1M", "count=200"];

    runtime.verb(&["update", "--memory", "300M", &container.id]).exits(0);
    assert_eq!(file(&container, "memory.max"), (300 << 20).to_string());
    // Two blocks of 128 MiB.
    assert_eq!(memory_mib(&container), before + 256);
    assert!(host_limit_mib(&container) >= limit_before.map(|mib| mib + 256));
    container.exec(&fill).exits(0);
    assert!(file(&container, "memory.current").parse::<u64>().unwrap() > 200 << 20);

    container.exec(&["rm", "/data/x"]).exits(0);
    runtime.verb(&["update", "--memory", "64M", &container.id]).exits(0);
    assert_eq!(file(&container, "memory.max"), (64 << 20).to_string());
    assert_eq!(memory_mib(&container), before);
    assert_eq!(host_limit_mib(&container), limit_before);

    // And again, with what is left of the first time.
    runtime.verb(&["update", "--memory", "150M", &container.id]).exits(0);
    assert_eq!(memory_mib(&container), before + 128);
}

#[test]
fn a_small_machine_grows_to_nine_times_its_memory_and_no_further() {
    let runtime = Runtime::cofferdam();
    let data = json!({
        "destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["size=1g"]
    });
    let container = runtime.start(&bundle().mount(data));
    // It has used what it began with when the rest comes.
    let fill = |name: &str, mib: &str| {
        let (to, count) = (format!("of=/data/{name}"), format!("count={mib}"));
        container.exec(&["dd", "if=/dev/zero", &to, "bs=1M", &count]).exits(0);
    };
    fill("first", "50");
    runtime.verb(&["update", "--memory", "1G", &container.id]).exits(0);
    fill("rest", "880");
    let many = "for i in 1 2 3 4 5 6 7 8; do sleep 1000 > /dev/null 2>&1 < /dev/null & done";
    container.exec(&["sh", "-c", many]).exits(0);
    assert_eq!(container.status(), "running");
    let refused = runtime.verb(&["update", "--memory", "2G", &container.id]);
    refused.exits(1).complains(&[
        "linux.resources.memory.limit",
        "9 times",
        "Create the container anew",
    ]);
    assert_eq!(file(&container, "memory.max"), (1 << 30).to_string());
}

#[test]
fn a_running_machine_gets_more_processors_and_gives_them_back() {
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), "[microvm]\nmax_vcpus = 3\n").unwrap();
    let path = config.path().display().to_string();
    let runtime = Runtime::cofferdam_with(&["--isolation", "microvm", "--config", &path]);
    let container = runtime.start(&bundle());
    let processors = |container: &Container<'_>| {
        let cpuinfo = container.exec(&["cat", "/proc/cpuinfo"]).stdout;
        cpuinfo.lines().filter(|line| line.starts_with("processor")).count()
    };
    assert_eq!(processors(&container), 1);
    for (quota, expected) in [("250000", 3), ("100000", 1), ("200000", 2)] {
        runtime.verb(&["update", "--cpu-quota", quota, &container.id]).exits(0);
        assert_eq!(processors(&container), expected);
        assert_eq!(file(&container, "cpu.max"), format!("{quota} 100000"));
        // Each runs.
        for processor in 0..expected {
            let mask = format!("{:x}", 1 << processor);
            container.exec(&["taskset", &mask, "true"]).exits(0);
        }
    }
    let refused = runtime.verb(&["update", "--cpu-quota", "400000", &container.id]);
    refused.exits(1).complains(&["linux.resources.cpu.quota", "the 3", "microvm.max_vcpus"]);
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

/// With its monitor stopped a guest answers nobody, like one that is hostile.
#[test]
fn a_guest_that_stalls_an_update_does_not_hold_up_its_deletion() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle());
    signal::kill(Pid::from_raw(container.pid()), Signal::SIGSTOP).unwrap();
    let mut update = runtime.command(&["update", "--pids-limit", "20", &container.id]);
    let mut update = update.stderr(Stdio::null()).spawn().unwrap();
    let lock = File::open(runtime.root().join(&container.id).join("lock")).unwrap();
    let begun = Instant::now();
    while lock.try_lock().is_ok() {
        lock.unlock().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20), "no update holds the lock");
        thread::sleep(Duration::from_millis(20));
    }
    let begun = Instant::now();
    runtime.verb(&["delete", "--force", &container.id]).exits(0);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    container.verb("state").exits(1).complains(&["does not exist"]);
    assert_eq!(update.wait().unwrap().code(), Some(1));
}
