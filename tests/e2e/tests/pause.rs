//! `pause` and `resume`: what a frozen container does, and what may be done with it. Where runc can
//! do the same it is the oracle.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cofferdam_e2e::{Bundle, Container, Leftovers, Runtime};

/// Counts, some times a second, in a file that the host can read.
fn counting() -> (Bundle, PathBuf) {
    let bundle =
        Bundle::script("i=0; while true; do i=$((i+1)); echo $i > /count; sleep 0.05; done");
    let file = bundle.rootfs().join("count");
    (bundle, file)
}

fn started<'a>(runtime: &'a Runtime, bundle: &Bundle) -> Container<'a> {
    let container = runtime.start(bundle);
    // Its program runs when it has counted.
    container.exec(&["sh", "-c", "while [ ! -s /count ]; do sleep 0.05; done"]).exits(0);
    container
}

/// What is in the file before and after a while that is long enough to count a few times.
fn meanwhile(file: &Path) -> (Option<String>, Option<String>) {
    let before = fs::read_to_string(file).ok();
    thread::sleep(Duration::from_secs(2));
    (before, fs::read_to_string(file).ok())
}

#[test]
fn a_paused_container_does_nothing_until_it_is_resumed() {
    let (bundle, file) = counting();
    let runtime = Runtime::cofferdam();
    let container = started(&runtime, &bundle);
    container.verb("pause").exits(0).prints("");
    assert_eq!(container.status(), "paused");
    let listed = runtime.verb(&["list"]);
    assert!(listed.stdout.contains(" paused "), "{}", listed.stdout);
    let (before, after) = meanwhile(&file);
    assert!(before.is_some());
    assert_eq!(before, after);
    container.verb("resume").exits(0).prints("");
    assert_eq!(container.status(), "running");
    let (before, after) = meanwhile(&file);
    assert_ne!(before, after);
}

#[test]
fn what_a_paused_container_refuses_is_what_the_oracle_refuses() {
    for runtime in [Runtime::runc(), Runtime::cofferdam()] {
        let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
        container.verb("resume").exits(1).complains(&["not paused"]);
        container.verb("pause").exits(0);
        container.exec(&["true"]).exits(255).complains(&["paused"]);
        container.verb("start").exits(1).complains(&["paused state"]);
        container.verb("pause").exits(1).complains(&["not running"]);
        container.verb("delete").exits(1).complains(&["not stopped", "paused"]);
        container.verb("resume").exits(0);
        container.exec(&["true"]).exits(0);
        container.kill("KILL").exits(0);
        container.becomes("stopped");
        container.verb("pause").exits(1).complains(&["not running"]);
        container.verb("resume").exits(1).complains(&["not paused"]);
    }
}

#[test]
fn exec_that_ignores_the_pause_goes_on_when_the_container_does() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
    container.verb("pause").exits(0);
    let (runtime, id) = (&runtime, container.id.as_str());
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_secs(2));
            runtime.verb(&["resume", id]).exits(0);
        });
        container.exec_with(&["--ignore-paused"], &["echo", "late"], b"").exits(0).prints("late\n");
    });
}

#[test]
fn a_paused_container_can_be_killed() {
    for runtime in [Runtime::runc(), Runtime::cofferdam()] {
        let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
        container.verb("pause").exits(0);
        container.kill("KILL").exits(0);
        container.becomes("stopped");
        container.verb("delete").exits(0);
    }
}

#[test]
fn a_paused_container_can_be_deleted_with_force() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let container = runtime.start(&Bundle::script("sleep 1000 & sleep 1000"));
    container.verb("pause").exits(0);
    runtime.verb(&["delete", "--force", &container.id]).exits(0);
    before.none_since(&runtime);
}

#[test]
fn a_container_that_was_not_started_can_be_paused() {
    for runtime in [Runtime::runc(), Runtime::cofferdam()] {
        let container = runtime.create(&Bundle::busybox(&["sleep", "1000"]));
        container.verb("pause").exits(0);
        assert_eq!(container.status(), "paused");
        container.verb("start").exits(1).complains(&["paused state"]);
        container.verb("resume").exits(0);
        container.verb("start").exits(0);
        assert_eq!(container.status(), "running");
    }
}
