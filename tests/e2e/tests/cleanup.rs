//! Nothing is left behind, whoever is killed and whenever.

// A fixture is part of a test.
#![allow(clippy::expect_used)]

use std::fs::{self, File};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use cofferdam_e2e::{Bundle, Leftovers, Mode, Runtime};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

fn sleeping() -> Bundle {
    Bundle::busybox(&["sleep", "1000"])
}

#[test]
fn a_killed_sandbox_is_stopped_and_deletes_like_any_other() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    for started in [false, true] {
        let container =
            if started { runtime.start(&sleeping()) } else { runtime.create(&sleeping()) };
        kill(Pid::from_raw(container.pid()), Signal::SIGKILL).expect("it is there");
        container.becomes("stopped");
        container.verb("delete").exits(0);
    }
    before.none_since(&runtime);
}

#[test]
fn run_says_137_when_its_sandbox_is_killed() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let bundle = sleeping();
    let path = bundle.path().display().to_string();
    let mut run = runtime
        .command(&["run", "--bundle", &path, &runtime.id("killed")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("run starts");
    let pid = wait_for_pid(&runtime, &runtime.id("killed"));
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is there");
    assert_eq!(run.wait().expect("run ends").code(), Some(137));
    before.none_since(&runtime);
}

/// The pid of a container once it runs.
fn wait_for_pid(runtime: &Runtime, id: &str) -> i32 {
    for _ in 0..1200 {
        let outcome = runtime.verb(&["state", id]);
        if let Ok(state) = serde_json::from_str::<serde_json::Value>(&outcome.stdout)
            && state["status"] == "running"
            && let Some(pid) = state["pid"].as_i64()
        {
            return i32::try_from(pid).expect("a pid");
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("{id} does not run")
}

#[test]
fn an_interrupted_run_leaves_nothing_whenever_it_is_interrupted() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let bundle = sleeping();
    let path = bundle.path().display().to_string();
    for delay_ms in [5, 20, 50, 100, 200, 400, 800, 1600] {
        let id = runtime.id(&format!("interrupted-{delay_ms}"));
        let said = bundle.path().join("said");
        let mut run = runtime
            .command(&["run", "--bundle", &path, &id])
            .stdout(Stdio::null())
            .stderr(File::create(&said).expect("a file for what it says"))
            .spawn()
            .expect("run starts");
        let pid = Pid::from_raw(i32::try_from(run.id()).expect("a pid"));
        thread::sleep(Duration::from_millis(delay_ms));
        // busybox's sleep does not handle these as the first process; as runc does, the signal is
        // passed on, so the end comes from the third one.
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let _ = kill(pid, signal);
            thread::sleep(Duration::from_millis(50));
        }
        let _ = runtime.verb(&["kill", &id, "KILL"]);
        let ended = (0..600).any(|_| {
            thread::sleep(Duration::from_millis(50));
            let _ = runtime.verb(&["kill", &id, "KILL"]);
            run.try_wait().expect("run can be waited for").is_some()
        });
        assert!(ended, "run does not end after {delay_ms} ms");
        let deleted = runtime.verb(&["delete", "--force", &id]);
        if let Some(left) = before.since(&runtime) {
            let said = fs::read_to_string(&said).unwrap_or_default();
            panic!("after {delay_ms} ms: {left}\nrun said: {said}\ndelete: {deleted:?}");
        }
    }
}

#[test]
fn a_runtime_killed_while_it_creates_leaves_nothing_that_delete_does_not_take() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let bundle = sleeping();
    let path = bundle.path().display().to_string();
    // Namespaces take thirty milliseconds here: each of their steps is met.
    let delays_ms = match Mode::current() {
        Mode::Namespace => (1..60).step_by(3).chain([150, 400]).collect(),
        Mode::MicroVm => vec![5, 20, 60, 150, 400],
    };
    for delay_ms in delays_ms {
        let id = runtime.id(&format!("orphan-{delay_ms}"));
        let mut create = runtime
            .command(&["create", "--bundle", &path, &id])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("create starts");
        thread::sleep(Duration::from_millis(delay_ms));
        create.kill().expect("it can be killed");
        create.wait().expect("it ends");
        runtime.verb(&["delete", "--force", &id]).exits(0);
    }
    before.none_since(&runtime);
}

#[test]
fn a_create_that_fails_late_leaves_nothing() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let bundle = sleeping().edit(|config| config["process"]["args"] = json!(["nonexistent"]));
    let path = bundle.path().display().to_string();
    for _ in 0..3 {
        assert_ne!(runtime.verb(&["create", "--bundle", &path, &runtime.id("late")]).code, 0);
    }
    before.none_since(&runtime);
}
