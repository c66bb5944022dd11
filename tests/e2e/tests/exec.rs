//! One more process in a running container.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Stdio;

use cofferdam_e2e::{Bundle, Container, Runtime, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn sleeping(runtime: &Runtime) -> Container<'_> {
    runtime.start(&Bundle::busybox(&["sleep", "1000"]))
}

#[test]
fn exec_ends_as_its_program_ends() {
    let runtime = Runtime::cofferdam();
    let container = sleeping(&runtime);
    container.exec(&["sh", "-c", "exit 3"]).exits(3);
    container.exec(&["sh", "-c", "kill -KILL $$"]).exits(137);
    container.exec(&["nonexistent"]).exits(127).complains(&["nonexistent", "not found"]);
    container.exec(&["/etc/passwd"]).exits(126).complains(&["permission denied"]);
}

#[test]
fn exec_sees_the_container_and_not_the_host() {
    let runtime = Runtime::cofferdam();
    let container = sleeping(&runtime);
    container.exec(&["hostname"]).exits(0).prints("inside\n");
    let processes = container.exec(&["sh", "-c", "cat /proc/1/comm"]);
    processes.exits(0).prints("sleep\n");
}

#[test]
fn flags_say_who_where_and_with_what() {
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let container = sleeping(&runtime);
        let flags = ["--user", "1000:1001", "--cwd", "/tmp", "--env", "A=b"];
        let said = container.exec_with(&flags, &["sh", "-c", "id -u; id -g; pwd; echo $A"], b"");
        said.exits(0).prints("1000\n1001\n/tmp\nb\n");
    }
}

#[test]
fn a_process_document_is_taken_as_runc_takes_it() {
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let container = sleeping(&runtime);
        let document = tempfile::NamedTempFile::new().unwrap();
        let process = serde_json::json!({
            "user": { "uid": 5, "gid": 6, "additionalGids": [7] },
            "args": ["sh", "-c", "id -u; id -G; umask"],
            "env": ["PATH=/bin"], "cwd": "/"
        });
        std::fs::write(document.path(), process.to_string()).unwrap();
        let flags = ["--process", document.path().to_str().unwrap()];
        container.exec_with(&flags, &[], b"").exits(0).prints("5\n6 7\n0022\n");
    }
}

/// `exec --detach` of a script; the process on the host.
fn detached(runtime: &Runtime, container: &Container<'_>, script: &str) -> i32 {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let file_name = file.to_str().unwrap();
    let args = ["exec", "--detach", "--pid-file", file_name, &container.id, "sh", "-c", script];
    // Its output goes to what it inherits: not to a pipe that somebody waits for.
    let mut command = runtime.command(&args);
    assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    std::fs::read_to_string(&file).unwrap().trim().parse().unwrap()
}

#[test]
fn a_detached_exec_has_a_process_on_the_host_that_ends_with_it() {
    let runtime = Runtime::cofferdam();
    let container = sleeping(&runtime);
    let pid = detached(&runtime, &container, "while [ ! -e /go ]; do sleep 0.1; done");
    let process = std::path::PathBuf::from(format!("/proc/{pid}/stat"));
    assert!(process.exists(), "no process {pid}");
    container.exec(&["touch", "/go"]).exits(0);
    until("it has ended", || {
        let stat = std::fs::read_to_string(&process).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
}

#[test]
fn who_kills_the_process_on_the_host_kills_the_one_inside() {
    let runtime = Runtime::cofferdam();
    let container = sleeping(&runtime);
    let pid = detached(&runtime, &container, "touch /up; exec sleep 4321");
    let is_inside = || container.exec(&["ps"]).stdout.contains("sleep 4321");
    until("it is there", is_inside);
    // Nothing of the host's can be asked to pass this signal on.
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    until("it is gone", || !is_inside());
    assert_eq!(container.status(), "running");
}

#[test]
fn exec_works_in_a_container_that_is_created_but_not_started() {
    let runtime = Runtime::cofferdam();
    let container = runtime.create(&Bundle::busybox(&["sleep", "1000"]));
    container.exec(&["true"]).exits(0);
}
