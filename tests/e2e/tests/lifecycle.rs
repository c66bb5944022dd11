//! From create to delete, and what each verb says in a status that it does not fit.

use cofferdam_e2e::{Bundle, Leftovers, Mode, Runtime};

fn sleeping() -> Bundle {
    Bundle::busybox(&["sleep", "1000"])
}

#[test]
fn a_container_goes_from_created_to_running_to_stopped_to_gone() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let container = runtime.create(&sleeping());
    assert_eq!(container.status(), "created");
    container.verb("start").exits(0);
    assert_eq!(container.status(), "running");
    container.kill("KILL").exits(0);
    container.becomes("stopped");
    container.verb("delete").exits(0);
    container.verb("state").exits(1).complains(&["does not exist"]);
    before.none_since(&runtime);
}

#[test]
fn state_has_the_fields_of_the_specification() {
    let runtime = Runtime::cofferdam();
    let bundle = sleeping().edit(|config| config["annotations"] = serde_json::json!({"a": "b"}));
    let container = runtime.start(&bundle);
    let state = container.state();
    assert_eq!(state["id"], container.id);
    assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
    assert_eq!(state["rootfs"], bundle.rootfs().to_str().unwrap());
    assert_eq!(state["annotations"]["a"], "b");
    let annotations = &state["annotations"];
    assert_eq!(annotations["dev.cofferdam.isolation.effective"], Mode::current().flag());
    assert!(annotations["dev.cofferdam.isolation.reason"].is_string());
    assert!(std::path::Path::new(&format!("/proc/{}", container.pid())).exists());
}

#[test]
fn the_program_runs_at_start_and_not_before() {
    let runtime = Runtime::cofferdam();
    let bundle = Bundle::script("touch /ran; sleep 1000");
    let container = runtime.create(&bundle);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(!bundle.rootfs().join("ran").exists());
    container.verb("start").exits(0);
    container.exec(&["sh", "-c", "while [ ! -e /ran ]; do sleep 0.1; done"]).exits(0);
    assert!(bundle.rootfs().join("ran").exists());
}

#[test]
fn verbs_in_the_wrong_status_are_refused_as_runc_refuses_them() {
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let container = runtime.start(&sleeping());
        assert_ne!(container.verb("start").code, 0);
        container.verb("delete").exits(1).complains(&["not stopped"]);
        container.kill("KILL").exits(0);
        container.becomes("stopped");
        container.exec(&["true"]).exits(255).complains(&["stopped"]);
        container.kill("KILL").exits(1).complains(&["not running"]);
        assert_ne!(container.verb("start").code, 0);
        container.verb("delete").exits(0);
        container.verb("delete").exits(1).complains(&["does not exist"]);
        runtime.verb(&["delete", "--force", &container.id]).exits(0);
    }
}

#[test]
fn delete_with_force_ends_what_runs() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let container = runtime.start(&sleeping());
    runtime.verb(&["delete", "--force", &container.id]).exits(0);
    before.none_since(&runtime);
}

#[test]
fn an_id_is_used_once() {
    let runtime = Runtime::cofferdam();
    let container = runtime.create(&sleeping());
    let bundle = sleeping();
    let path = bundle.path().to_str().unwrap();
    let again = runtime.verb(&["create", "--bundle", path, &container.id]);
    again.exits(1).complains(&["exist"]);
    assert_eq!(container.status(), "created");
}

#[test]
fn list_names_what_there_is() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&sleeping());
    let listed = runtime.verb(&["list"]);
    listed.exits(0);
    let header: Vec<&str> = listed.stdout.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    runtime.verb(&["list", "--quiet"]).exits(0).prints(&format!("{}\n", container.id));
    let json = runtime.verb(&["list", "--format", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(rows[0]["id"], container.id);
    assert_eq!(rows[0]["status"], "running");
}

#[test]
fn ps_shows_the_processes_of_the_container() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&sleeping());
    let table = container.verb("ps");
    table.exits(0);
    assert!(table.stdout.contains("sleep 1000"), "{}", table.stdout);
    let json = runtime.verb(&["ps", "--format", "json", &container.id]);
    let pids: Vec<u32> = serde_json::from_str(&json.stdout).unwrap();
    // Engines take it for the host's number, in either mode.
    assert_eq!(pids, [container.pid().cast_unsigned()]);
}

#[test]
fn signals_reach_the_program() {
    let runtime = Runtime::cofferdam();
    let bundle = Bundle::script("trap 'exit 7' TERM; touch /ready; while true; do sleep 0.1; done");
    let container = runtime.start(&bundle);
    container.exec(&["sh", "-c", "while [ ! -e /ready ]; do sleep 0.1; done"]).exits(0);
    container.kill("TERM").exits(0);
    container.becomes("stopped");
}
