//! What `--compat` has as runc has it, where the specification or hardening would have it otherwise.

use std::fs;
use std::path::Path;
use std::process::Command;

use cofferdam_e2e::{Bundle, Leftovers, Runtime};
use serde_json::json;

fn compatible() -> Runtime {
    Runtime::cofferdam_with(&["--isolation", "namespace", "--compat"])
}

/// A hook that adds a line to a file of the host.
fn noting(word: &str, log: &Path) -> serde_json::Value {
    let script = format!("echo {word} >> {}", log.display());
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script] })
}

/// What is mounted on this machine in a bundle.
fn mounts_in(bundle: &Bundle) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let folder = bundle.path().to_string_lossy();
    assert!(!table.is_empty());
    table.lines().filter(|line| line.contains(&*folder)).count()
}

#[test]
fn a_container_without_a_mount_namespace_mounts_on_the_host() {
    let bundle = Bundle::busybox(&["sleep", "1000"]).without_namespace("mount").edit(|config| {
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
    });
    let runtime = compatible();
    let container = runtime.start(&bundle);
    let theirs = fs::read_link(format!("/proc/{}/ns/mnt", container.pid())).unwrap();
    assert_eq!(theirs, fs::read_link("/proc/self/ns/mnt").unwrap());
    assert!(mounts_in(&bundle) > 1);
    container.exec(&["test", "-e", "/bin/busybox"]).exits(0);
    container.exec(&["test", "-e", bundle.path().to_str().unwrap()]).exits(1);
    container.kill("KILL").exits(0);
    container.becomes("stopped");
    container.verb("delete").exits(0);
    assert_eq!(mounts_in(&bundle), 0);
}

#[test]
fn a_failed_container_without_a_mount_namespace_leaves_no_mounts() {
    let bundle = Bundle::busybox(&["/nonexistent"]).without_namespace("mount");
    compatible().run(&bundle).exits(127);
    assert_eq!(mounts_in(&bundle), 0);
}

#[test]
fn by_default_a_mount_namespace_is_needed() {
    let bundle = Bundle::busybox(&["true"]).without_namespace("mount");
    let outcome = Runtime::cofferdam().run(&bundle);
    outcome.exits(1).complains(&["linux.namespaces has no mount namespace"]);
}

#[test]
fn a_failing_poststop_hook_is_a_failing_delete() {
    for (runtime, code, lines) in
        [(compatible(), 1, "one\n"), (Runtime::cofferdam(), 0, "one\nthree\n")]
    {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let bundle = Bundle::busybox(&["true"]).edit(|config| {
            let hooks = [noting("one", &log), json!({"path": "/bin/false"}), noting("three", &log)];
            config["hooks"] = json!({ "poststop": hooks });
        });
        let leftovers = Leftovers::before(&runtime);
        let container = runtime.start(&bundle);
        container.becomes("stopped");
        container.verb("delete").exits(code);
        assert_eq!(fs::read_to_string(&log).unwrap(), lines);
        leftovers.none_since(&runtime);
    }
}

#[test]
fn poststart_hooks_follow_a_failed_hook_of_the_start() {
    for (runtime, lines) in [(compatible(), "poststart\n"), (Runtime::cofferdam(), "")] {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "").unwrap();
        let bundle = Bundle::busybox(&["true"]).edit(|config| {
            config["hooks"] = json!({
                "startContainer": [{ "path": "/bin/false" }],
                "poststart": [noting("poststart", &log)],
            });
        });
        let container = runtime.create(&bundle);
        container.verb("start").exits(1).complains(&["startContainer"]);
        assert_eq!(fs::read_to_string(&log).unwrap(), lines);
    }
}

#[test]
fn a_program_that_exec_does_not_find_is_255() {
    let runtime = compatible();
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
    container.exec(&["nonexistent"]).exits(255).complains(&["nonexistent", "not found"]);
}

#[test]
fn preserved_descriptors_that_are_closed_stay_closed() {
    let bundle = Bundle::busybox(&["ls", "/proc/self/fd"]);
    let runtime = compatible();
    let (mut command, id) = (Command::new("sh"), runtime.id("preserved"));
    command.args(["-c", "exec \"$@\" 9</dev/null", "sh"]);
    let flags = ["run", "--preserve-fds", "7", "--bundle", bundle.path().to_str().unwrap(), &id];
    let cofferdam = runtime.command(&flags);
    command.arg(cofferdam.get_program()).args(cofferdam.get_args());
    let listed = String::from_utf8(command.output().unwrap().stdout).unwrap();
    // 3 is the folder that ls reads.
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3", "9"]);
}
