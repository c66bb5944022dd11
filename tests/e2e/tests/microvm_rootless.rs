//! What an ordinary user who may use `/dev/kvm` can do with microVMs.

use std::fs;
use std::sync::Arc;

use cofferdam_e2e::{Bundle, Leftovers, Runtime, User};
use serde_json::json;

fn user() -> Arc<User> {
    Arc::new(User::ordinary().with_kvm())
}

#[test]
fn every_verb_works_and_nothing_is_left() {
    let user = user();
    let runtime = Runtime::cofferdam_of(&user);
    let before = Leftovers::before(&runtime);
    let container = runtime.create(&Bundle::busybox(&["sleep", "1000"]).owned_by(&user));
    assert_eq!(container.status(), "created");
    container.verb("start").exits(0);
    container.exec(&["sh", "-c", "id -u; exit 7"]).exits(7).prints("0\n");
    assert!(container.verb("ps").stdout.contains("sleep 1000"));
    container.verb("pause").exits(0);
    assert_eq!(container.status(), "paused");
    container.verb("resume").exits(0);
    runtime.verb(&["update", "--pids-limit", "17", &container.id]).exits(0);
    let events = runtime.verb(&["events", "--stats", &container.id]);
    assert!(events.stdout.contains("\"limit\":17"), "{}", events.stdout);
    container.kill("KILL").exits(0);
    container.becomes("stopped");
    container.verb("delete").exits(0);
    drop(container);
    before.none_since(&runtime);
}

#[test]
fn the_monitor_is_the_user_s_in_a_user_namespace_of_its_own() {
    let user = user();
    let runtime = Runtime::cofferdam_of(&user);
    let scored = |score: i32| {
        let bundle = Bundle::busybox(&["sleep", "1000"]).owned_by(&user);
        bundle.edit(|config| config["process"]["oomScoreAdj"] = json!(score))
    };
    let container = runtime.start(&scored(300));
    let process = format!("/proc/{}", container.pid());
    assert_eq!(fs::read_to_string(format!("{process}/oom_score_adj")).unwrap(), "300\n");
    runtime.run(&scored(-1)).exits(1).complains(&["process.oomScoreAdj, -1", "only root"]);
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert_eq!(uids.split_whitespace().nth(1), Some(user.uid.to_string().as_str()));
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    let map = fs::read_to_string(format!("{process}/uid_map")).unwrap();
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(words, ["0", user.uid.to_string().as_str(), "1"]);
}

#[test]
fn files_have_the_owners_that_the_mappings_say() {
    let user = user();
    let (first, _) = user.subordinate();
    let script = "touch /own /other; chown 5:6 /other; stat -c %u:%g /own /other";
    let bundle = Bundle::script(script).owned_by(&user).with_subordinate(&user);
    Runtime::cofferdam_of(&user).run(&bundle).exits(0).prints("0:0\n5:6\n");
    assert_eq!(bundle.owner("own"), (user.uid, user.gid));
    assert_eq!(bundle.owner("other"), (first + 4, first + 5));
}

#[test]
fn a_bind_mount_shows_the_user_s_files_and_read_only_holds() {
    let user = user();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "seen").unwrap();
    user.give(folder.path());
    let bundle = Bundle::script("cat /in/file; touch /in/new || echo refused")
        .mount(json!({
            "destination": "/in", "source": folder.path(), "options": ["bind", "ro"]
        }))
        .owned_by(&user);
    let outcome = Runtime::cofferdam_of(&user).run(&bundle);
    outcome.exits(0).prints("seenrefused\n");
    assert!(!folder.path().join("new").exists());
}

#[test]
fn what_cannot_be_mapped_is_refused_by_name() {
    let user = user();
    let (first, count) = user.subordinate();
    let runtime = Runtime::cofferdam_of(&user);
    let bundle = Bundle::busybox(&["true"]).owned_by(&user);
    let elsewhere = bundle.edit(|config| {
        config["linux"]["uidMappings"] =
            json!([{ "containerID": 0, "hostID": first, "size": count }]);
    });
    runtime.run(&elsewhere).exits(1).complains(&["linux.uidMappings", "is the user"]);
    let foreign = elsewhere.edit(|config| {
        config["linux"]["uidMappings"] = json!([
            { "containerID": 0, "hostID": user.uid, "size": 1 },
            { "containerID": 1, "hostID": 1, "size": 1 }
        ]);
    });
    runtime.run(&foreign).exits(1).complains(&["linux.uidMappings", "/etc/subuid"]);
}

#[test]
fn without_the_device_s_group_there_is_no_microvm_and_the_remedy_is_said() {
    let user = User::shared();
    let runtime = Runtime::cofferdam_of(&user);
    let bundle = Bundle::busybox(&["true"]).owned_by(&user);
    runtime.run(&bundle).exits(1).complains(&["/dev/kvm", "permission"]);
    let doctor = runtime.verb(&["doctor"]);
    for words in ["--groups kvm", "isolation microvm: no", "subordinate ids"] {
        assert!(doctor.stdout.contains(words), "{}", doctor.stdout);
    }
}

#[test]
fn what_spec_writes_for_a_user_s_microvm_is_what_the_user_can_run() {
    let user = user();
    let runtime = Runtime::cofferdam_of(&user);
    runtime.run(&Bundle::of_spec(&runtime, &user, &["id", "-u"])).exits(0).prints("0\n");
}
