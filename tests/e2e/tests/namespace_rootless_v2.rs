//! What an ordinary user can do in namespaces with a control group of its own, which takes cgroup v2.

use std::fs;

use cofferdam_e2e::{Bundle, Delegated, Runtime, User};
use serde_json::json;

#[test]
fn in_a_delegated_control_group_every_verb_works_and_limits_hold() {
    let user = User::shared();
    let runtime = Runtime::cofferdam_of(&user);
    let delegated = Delegated::new(&runtime.tag(), &user);
    let runtime = runtime.in_group(&delegated.caller());
    let bundle = Bundle::busybox(&["sleep", "1000"]).owned_by(&user).edit(|config| {
        config["linux"]["resources"] = json!({ "memory": { "limit": 1 << 26 } });
    });
    let container = runtime.start(&bundle);
    let group = delegated.folder().join(&container.id);
    let read = |name: &str| fs::read_to_string(group.join(name)).unwrap().trim().to_owned();
    assert_eq!((read("memory.max"), read("pids.max")), ("67108864".into(), "4096".into()));
    container.verb("pause").exits(0);
    assert_eq!(container.status(), "paused");
    container.verb("resume").exits(0);
    runtime.verb(&["update", "--pids-limit", "17", &container.id]).exits(0);
    assert_eq!(read("pids.max"), "17");
    let events = runtime.verb(&["events", "--stats", &container.id]);
    assert!(events.stdout.contains("\"limit\":67108864"), "{}", events.stdout);
    container.exec(&["true"]).exits(0);
    container.verb("delete").exits(1);
    runtime.verb(&["delete", "--force", &container.id]).exits(0);
    assert!(!group.exists());
}
