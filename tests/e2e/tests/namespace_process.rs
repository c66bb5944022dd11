//! What a container's process is told and given, beside what runc gives it.

use cofferdam_e2e::{Bundle, Leftovers, Runtime};
use serde_json::json;

/// Without the additions, so that the comparison is of the two runtimes and of nothing else.
fn compatible() -> Runtime {
    Runtime::cofferdam_with(&["--isolation", "namespace", "--compat"])
}

/// As runc 1.2 and later have it.
#[test]
fn of_a_variable_that_is_there_twice_the_last_holds() {
    let bundle = Bundle::busybox(&["env"]).edit(|config| {
        config["process"]["env"] = json!(["A=1", "PATH=/bin", "A=2", "HOME=/x", "HOME="]);
    });
    compatible().run(&bundle).exits(0).prints("PATH=/bin\nA=2\nHOME=/root\n");
}

#[test]
fn a_process_of_exec_needs_no_user() {
    let process = json!({ "args": ["id", "-u"], "cwd": "/", "env": ["PATH=/bin"] }).to_string();
    for runtime in [compatible(), Runtime::runc()] {
        let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
        container.exec_with(&["--process", "/dev/stdin"], &[], process.as_bytes()).prints("0\n");
    }
}

#[test]
fn the_callers_processors_are_not_the_containers() {
    let runtime = compatible();
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = all.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap();
    let bound = ["-c", "0"];
    let mut command = std::process::Command::new("taskset");
    let exec =
        runtime.command(&["exec", &container.id, "grep", "Cpus_allowed_list", "/proc/self/status"]);
    let output =
        command.args(bound).arg(exec.get_program()).args(exec.get_args()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), all);
}

#[test]
fn an_execution_domain_is_that_of_exec_as_well() {
    let runtime = compatible();
    let bundle = Bundle::busybox(&["sleep", "1000"])
        .edit(|config| config["linux"]["personality"] = json!({ "domain": "LINUX32" }));
    runtime.start(&bundle).exec(&["uname", "-m"]).prints("i686\n");
}

#[test]
fn a_group_that_is_frozen_is_refused_and_not_waited_for() {
    let runtime = compatible();
    let name = format!("/{}", runtime.id("frozen"));
    let folders = ["freezer", ""].map(|c| format!("/sys/fs/cgroup/{c}{name}"));
    let folder = if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        &folders[1]
    } else {
        &folders[0]
    };
    std::fs::create_dir(folder).unwrap();
    let freeze = [("freezer.state", "FROZEN"), ("cgroup.freeze", "1")];
    let frozen = freeze.iter().any(|(file, text)| {
        let path = format!("{folder}/{file}");
        std::path::Path::new(&path).exists() && std::fs::write(path, text).is_ok()
    });
    assert!(frozen);
    let bundle =
        Bundle::busybox(&["true"]).edit(|config| config["linux"]["cgroupsPath"] = json!(name));
    let outcome = runtime.run(&bundle);
    std::fs::remove_dir(folder).unwrap();
    outcome.exits(1).complains(&["container's cgroup unexpectedly frozen"]);
}

#[test]
fn a_listener_that_nobody_listens_on_is_named_and_nothing_waits_for_it() {
    let bundle = Bundle::busybox(&["mkdir", "/x"]).edit(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no-such-listener",
            "syscalls": [{ "names": ["mkdir", "read"], "action": "SCMP_ACT_NOTIFY" }],
        });
    });
    compatible().run(&bundle).exits(1).complains(&["seccomp agent", "/no-such-listener"]);
}

/// A zombie is one: whoever is the first process of the machine may take its time.
#[test]
fn when_run_has_ended_every_process_of_it_has() {
    let runtime = compatible();
    let before = Leftovers::before(&runtime);
    runtime.run(&Bundle::busybox(&["true"])).exits(0);
    assert_eq!(Leftovers::before(&runtime), before);
}
