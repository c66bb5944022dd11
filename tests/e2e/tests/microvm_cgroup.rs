//! The control group of a microVM's whole sandbox on the host: who is in it, what it may take, and
//! that nothing of it stays.

use std::fs;
use std::path::{Path, PathBuf};

use cofferdam_e2e::{Bundle, Leftovers, Runtime};
use serde_json::json;

const MIB: u64 = 1 << 20;

/// The folder (v2) of the group that a process is in.
fn group(pid: i32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    Path::new("/sys/fs/cgroup").join(path)
}

fn file(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_default().trim().to_owned()
}

fn bundle() -> Bundle {
    Bundle::busybox(&["sleep", "1000"]).edit(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 64 * MIB });
        config["linux"]["resources"]["cpu"] = json!({ "quota": 50_000, "period": 100_000 });
    })
}

#[test]
fn the_whole_sandbox_is_in_the_group_that_was_asked_for_and_limited() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let path = format!("/{}/deep/group", runtime.id("parent"));
    let asked = bundle().edit(|config| config["linux"]["cgroupsPath"] = json!(path));
    let container = runtime.start(&asked);
    let folder = group(container.pid());
    assert_eq!(folder, Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')));
    let state = container.state();
    let memory = state["annotations"]["dev.cofferdam.vm.memory_mib"].as_str().unwrap_or_default();
    let guest = memory.parse::<u64>().unwrap() * MIB;
    let limit = file(&folder, "memory.max").parse::<u64>().unwrap();
    assert!(limit >= guest + 48 * MIB && limit < guest + 64 * MIB, "{limit} for {guest}");
    assert_eq!(file(&folder, "pids.max"), "33");
    assert_eq!(file(&folder, "cpu.max"), "50000 100000");
    runtime.verb(&["update", "--cpu-quota", "30000", &container.id]).exits(0);
    assert_eq!(file(&folder, "cpu.max"), "30000 100000");
    runtime.verb(&["delete", "--force", &container.id]).exits(0);
    assert!(!folder.exists());
    // The groups above are whoever's asked for them.
    for above in folder.ancestors().skip(1).take(2) {
        fs::remove_dir(above).unwrap();
    }
    before.none_since(&runtime);
}

#[test]
fn what_is_taken_back_of_processor_time_is_taken_back_on_the_host() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle());
    let folder = group(container.pid());
    let update = |flags: &[&str]| {
        runtime.verb(&[&["update"], flags, &[container.id.as_str()]].concat()).exits(0);
    };
    update(&["--cpu-burst", "20000"]);
    assert_eq!(file(&folder, "cpu.max.burst"), "20000");
    update(&["--cpu-burst", "0"]);
    assert_eq!(file(&folder, "cpu.max.burst"), "0");
    update(&["--cpu-idle", "1"]);
    assert_eq!(file(&folder, "cpu.idle"), "1");
    update(&["--cpu-idle", "0"]);
    assert_eq!(file(&folder, "cpu.idle"), "0");
}

#[test]
fn a_group_that_nobody_named_has_the_containers_name() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle());
    assert_eq!(group(container.pid()), Path::new("/sys/fs/cgroup").join(&container.id));
}

#[test]
fn a_guest_that_takes_all_of_its_memory_stays_within_the_overhead() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle());
    let take = "dd if=/dev/zero of=/dev/shm/x bs=1M count=56 2>/dev/null; rm /dev/shm/x; \
                dd if=/dev/zero of=/big bs=1M count=64 2>/dev/null; cat /big > /dev/null; rm /big; echo ok";
    container.exec(&["sh", "-c", take]).exits(0).prints("ok\n");
    let folder = group(container.pid());
    assert!(file(&folder, "memory.events").contains("oom_kill 0"));
    assert_eq!(container.status(), "running");
}

#[test]
fn nothing_is_left_of_the_group_of_a_monitor_that_was_killed() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let container = runtime.start(&bundle());
    let (pid, folder) = (container.pid(), group(container.pid()));
    assert!(folder.join("cgroup.procs").exists());
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    container.becomes("stopped");
    container.verb("delete").exits(0);
    assert!(!folder.exists());
    before.none_since(&runtime);
}

#[test]
fn a_group_with_others_in_it_is_refused() {
    let runtime = Runtime::cofferdam();
    let folder = Path::new("/sys/fs/cgroup").join(runtime.id("used"));
    fs::create_dir(&folder).unwrap();
    let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(folder.join("cgroup.procs"), other.id().to_string()).unwrap();
    let path = format!("/{}", runtime.id("used"));
    let asked = bundle().edit(|config| config["linux"]["cgroupsPath"] = json!(path));
    runtime.run(&asked).exits(1).complains(&["container's cgroup is not empty"]);
    assert!(other.try_wait().unwrap().is_none(), "somebody else's process was killed");
    other.kill().unwrap();
    other.wait().unwrap();
    fs::remove_dir(&folder).unwrap();
}
