//! `update`: other limits for a container that runs, shown by what the container may do then. Where
//! runc can do the same it is the oracle.

use std::fs;
use std::path::Path;

use cofferdam_e2e::{Bundle, Container, Mode, Outcome, Runtime};
use serde_json::json;

const MIB: u64 = 1 << 20;
/// There where the host has cgroup v2 alone.
const V2: &str = "/sys/fs/cgroup/cgroup.controllers";

/// Sleeps; its memory is limited, and swap with it.
fn limited() -> Bundle {
    Bundle::busybox(&["sleep", "1000"]).edit(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 96 * MIB, "swap": 96 * MIB });
        config["linux"]["resources"]["pids"] = json!({ "limit": 100 });
    })
}

fn update(runtime: &Runtime, container: &Container<'_>, flags: &[&str]) -> Outcome {
    runtime.verb(&[&["update"], flags, &[container.id.as_str()]].concat())
}

/// Takes as much memory, as a file in it.
fn takes(container: &Container<'_>, mib: u32) -> Outcome {
    let count = format!("count={mib}");
    container.exec(&["dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", &count])
}

/// Starts as many processes at once.
fn forks(container: &Container<'_>, processes: u32) -> Outcome {
    let script = format!("for i in $(seq {processes}); do sleep 1 & done; wait; echo all");
    container.exec(&["sh", "-c", &script])
}

#[test]
fn less_memory_holds_at_once() {
    for runtime in [Runtime::runc(), Runtime::cofferdam()] {
        let container = runtime.start(&limited());
        takes(&container, 50).exits(0);
        container.exec(&["rm", "/dev/shm/x"]).exits(0);
        update(&runtime, &container, &["--memory", "32M", "--memory-swap", "32M"]).exits(0);
        takes(&container, 50).exits(137);
        // First the room: what is left of the file may leave none for another process.
        update(&runtime, &container, &["--memory", "96M", "--memory-swap", "96M"]).exits(0);
        container.exec(&["rm", "/dev/shm/x"]).exits(0);
        takes(&container, 50).exits(0);
    }
}

#[test]
fn fewer_processes_hold_at_once() {
    for runtime in [Runtime::runc(), Runtime::cofferdam()] {
        let container = runtime.start(&limited());
        forks(&container, 40).exits(0).prints("all\n");
        update(&runtime, &container, &["--pids-limit", "20"]).exits(0);
        forks(&container, 40).complains(&["fork"]);
        update(&runtime, &container, &["--pids-limit", "-1"]).exits(0);
        forks(&container, 150).exits(0).prints("all\n");
    }
}

#[test]
fn limits_come_from_a_file_as_well() {
    for runtime in [Runtime::runc(), Runtime::cofferdam()] {
        let container = runtime.start(&limited());
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), r#"{"pids":{"limit":20},"memory":{"limit":0}}"#).unwrap();
        update(&runtime, &container, &["-r", file.path().to_str().unwrap()]).exits(0);
        forks(&container, 40).complains(&["fork"]);
    }
}

#[test]
fn a_paused_container_takes_limits_and_stays_paused() {
    for runtime in [Runtime::runc(), Runtime::cofferdam()] {
        let container = runtime.start(&limited());
        container.verb("pause").exits(0);
        update(&runtime, &container, &["--pids-limit", "20"]).exits(0);
        assert_eq!(container.status(), "paused");
        container.verb("resume").exits(0);
        forks(&container, 40).complains(&["fork"]);
    }
}

#[test]
fn a_value_that_is_none_changes_nothing_and_is_named() {
    for runtime in [Runtime::runc(), Runtime::cofferdam()] {
        let container = runtime.start(&limited());
        let wrong = update(&runtime, &container, &["--pids-limit", "20", "--memory", "many"]);
        wrong.exits(1).complains(&["memory"]);
        let wrong = update(&runtime, &container, &["--pids-limit", "20", "--cpu-period", "many"]);
        wrong.exits(1).complains(&["invalid value for cpu-period"]);
        forks(&container, 40).exits(0).prints("all\n");
    }
}

#[test]
fn a_container_that_has_ended_has_no_limits_to_change() {
    for runtime in [Runtime::runc(), Runtime::cofferdam()] {
        let container = runtime.start(&limited());
        container.kill("KILL").exits(0);
        container.becomes("stopped");
        update(&runtime, &container, &["--pids-limit", "20"]).exits(1).complains(&["not running"]);
    }
    let runtime = Runtime::cofferdam();
    runtime.verb(&["update", "--pids-limit", "20", "nobody"]).exits(1).complains(&["not exist"]);
}

#[test]
fn a_limit_below_what_is_used_is_refused_where_that_is_asked_for() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&limited());
    let file = tempfile::NamedTempFile::new().unwrap();
    let wanted = json!({ "memory": { "limit": 4096, "checkBeforeUpdate": true } });
    fs::write(file.path(), wanted.to_string()).unwrap();
    let outcome = update(&runtime, &container, &["-r", file.path().to_str().unwrap()]);
    // The kernel's v1 refuses it by itself.
    let by_kernel = Mode::current() == Mode::Namespace && !Path::new(V2).exists();
    let words = if by_kernel { "memory" } else { "rejecting memory limit 4096 <= usage" };
    outcome.exits(1).complains(&[words]);
    container.exec(&["true"]).exits(0);
}
