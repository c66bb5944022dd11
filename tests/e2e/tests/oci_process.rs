//! `process` and what the kernel keeps for a process, chapter by chapter of the specification.
//! Where runc 1.1 knows a field it is the oracle.

use cofferdam_e2e::{Bundle, Runtime};
use serde_json::json;

#[test]
fn a_process_has_its_scheduler_and_io_priority() {
    // The nineteenth field is the nice value, the forty-first the policy.
    let script = "cut -d' ' -f19,41 /proc/self/stat; ionice";
    let bundle = Bundle::script(script).edit(|config| {
        config["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
        config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
    });
    Runtime::cofferdam().run(&bundle).exits(0).prints("5 3\nbest-effort: prio 6\n");
}

#[test]
fn a_personality_changes_the_machines_name() {
    let bundle = Bundle::busybox(&["uname", "-m"])
        .edit(|config| config["linux"]["personality"] = json!({ "domain": "LINUX32" }));
    Runtime::cofferdam().run(&bundle).exits(0).prints("i686\n");
}

#[test]
fn clocks_have_their_offsets_in_a_time_namespace() {
    let bundle = Bundle::busybox(&["cut", "-d.", "-f1", "/proc/uptime"]).edit(|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "time" }));
        config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000_000 } });
    });
    let outcome = Runtime::cofferdam().run(&bundle);
    outcome.exits(0);
    assert!(outcome.stdout.trim().parse::<u64>().unwrap() >= 1_000_000_000, "{outcome:?}");
}

#[test]
fn a_working_folder_that_is_missing_is_made() {
    let bundle = Bundle::script("pwd; ls -ld . | cut -c1-10")
        .edit(|config| config["process"]["cwd"] = json!("/made/for/it"));
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        runtime.run(&bundle).exits(0).prints("/made/for/it\ndrwxr-xr-x\n");
    }
}

#[test]
fn a_process_that_comes_later_is_kept_to_its_processors() {
    let bundle = Bundle::busybox(&["sleep", "1000"]).edit(|config| {
        config["process"]["execCPUAffinity"] = json!({ "initial": "0", "final": "0" });
    });
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle);
    let outcome = container.exec(&["grep", "Cpus_allowed_list", "/proc/self/status"]);
    outcome.exits(0).prints("Cpus_allowed_list:\t0\n");
}

#[test]
fn of_a_variable_that_is_there_twice_the_last_holds_and_an_empty_home_is_the_users() {
    let bundle = Bundle::busybox(&["env"]).edit(|config| {
        config["process"]["env"] =
            json!(["PATH=/bin", "ONE=two", "HOME=/override", "ONE=three", "HOME="]);
    });
    let outcome = Runtime::cofferdam().run(&bundle);
    outcome.exits(0);
    let mut lines: Vec<&str> = outcome.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["HOME=/root", "ONE=three", "PATH=/bin"]);
}

#[test]
fn a_hook_in_the_container_that_names_no_environment_has_that_of_the_process() {
    let bundle = Bundle::busybox(&["true"]).edit(|config| {
        config["process"]["env"] = json!(["PATH=/bin", "ONE=two"]);
        config["hooks"] = json!({ "startContainer": [
            { "path": "/bin/sh", "args": ["sh", "-c", "test \"$ONE $HOME\" = 'two /root'"] }
        ] });
    });
    Runtime::cofferdam().run(&bundle).exits(0);
}
