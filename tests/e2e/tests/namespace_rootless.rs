//! What an ordinary user can do in namespaces: all of it without root, with runc as the oracle.

use std::path::Path;

use cofferdam_e2e::{Bundle, Leftovers, Runtime, User};
use serde_json::json;

#[test]
fn what_spec_writes_for_a_user_is_what_the_user_can_run() {
    let user = User::shared();
    for runtime in [Runtime::runc_of(&user), Runtime::cofferdam_of(&user)] {
        let script = "id -u; grep -c . /proc/self/uid_map";
        let bundle = Bundle::of_spec(&runtime, &user, &["sh", "-c", script]);
        runtime.run(&bundle).exits(0).prints("0\n1\n");
    }
}

#[test]
fn every_verb_that_needs_no_control_group_works_and_nothing_is_left() {
    let user = User::shared();
    for runtime in [Runtime::runc_of(&user), Runtime::cofferdam_of(&user)] {
        let before = Leftovers::before(&runtime);
        let container = runtime.create(&Bundle::busybox(&["sleep", "1000"]).owned_by(&user));
        assert_eq!(container.status(), "created");
        container.exec(&["id", "-u"]).exits(0).prints("0\n");
        container.verb("start").exits(0);
        assert_eq!(container.status(), "running");
        container.exec(&["sh", "-c", "exit 7"]).exits(7);
        assert!(runtime.verb(&["list", "-q"]).stdout.contains(&container.id));
        container.kill("KILL").exits(0);
        container.becomes("stopped");
        container.verb("delete").exits(0);
        drop(container);
        before.none_since(&runtime);
    }
}

#[test]
fn processes_are_found_by_their_namespace() {
    let user = User::shared();
    let runtime = Runtime::cofferdam_of(&user);
    let bundle = Bundle::script("sleep 1002 & exec sleep 1000").owned_by(&user);
    let container = runtime.start(&bundle);
    let wait = "until grep -q 10[0]2 /proc/[0-9]*/cmdline; do sleep 0.05; done";
    container.exec(&["sh", "-c", wait]).exits(0);
    let listed = container.verb("ps");
    listed.exits(0);
    for program in ["sleep 1000", "sleep 1002"] {
        assert!(listed.stdout.contains(program), "{}", listed.stdout);
    }
    runtime.verb(&["kill", "--all", &container.id, "KILL"]).exits(0);
    container.becomes("stopped");
}

#[test]
fn the_default_hardening_holds() {
    let user = User::shared();
    let runtime = Runtime::cofferdam_of(&user);
    let bundle = Bundle::probe(&["/proc/kcore", "/proc/sysrq-trigger"]).owned_by(&user);
    let bundle = bundle.edit(|config| {
        config["process"].as_object_mut().unwrap().remove("noNewPrivileges");
    });
    let found = cofferdam_e2e::probe(&runtime, &bundle);
    assert_eq!(found["status"]["Seccomp"], "2", "{found}");
    assert_eq!(found["status"]["NoNewPrivs"], "1", "{found}");
}

#[test]
fn subordinate_users_and_groups_are_mapped() {
    let user = User::shared();
    let (first, _) = user.subordinate();
    let script = "touch /own /other; chown 5:6 /other; stat -c %u:%g /other; id -G";
    let bundle = Bundle::script(script).owned_by(&user).with_subordinate(&user);
    let bundle = bundle.edit(|config| config["process"]["user"]["additionalGids"] = json!([7]));
    let outcome = Runtime::cofferdam_of(&user).run(&bundle);
    outcome.exits(0).prints("5:6\n0 7\n");
    assert_eq!(bundle.owner("own"), (user.uid, user.gid));
    assert_eq!(bundle.owner("other"), (first + 4, first + 5));
}

#[test]
fn ids_that_are_not_the_user_s_are_refused_by_name() {
    let user = User::shared();
    let bundle = Bundle::busybox(&["true"]).owned_by(&user).edit(|config| {
        config["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
    });
    let runtime = Runtime::cofferdam_of(&user);
    runtime.run(&bundle).exits(1).complains(&["linux.uidMappings", "/etc/subuid", "usermod"]);
}

#[test]
fn what_only_root_can_give_is_refused_by_name() {
    let user = User::shared();
    let runtime = Runtime::cofferdam_of(&user);
    let bundle = Bundle::busybox(&["true"]);
    let plain = bundle.clone().edit(|config| config["process"]["cwd"] = json!("/"));
    user.give(plain.path());
    runtime.run(&plain).exits(1).complains(&["linux.namespaces", "user namespaces"]);
    let asking = bundle.owned_by(&user).edit(|config| {
        config["linux"]["resources"] = json!({ "memory": { "limit": 1 << 26 } });
        config["process"]["oomScoreAdj"] = json!(-1000);
        config["linux"]["netDevices"] = json!({ "eth0": {} });
    });
    let fields = ["linux.resources.memory", "process.oomScoreAdj", "linux.netDevices"];
    runtime.run(&asking).exits(1).complains(&fields);
}

#[test]
fn a_verb_that_takes_a_control_group_says_so() {
    let user = User::shared();
    let runtime = Runtime::cofferdam_of(&user);
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]).owned_by(&user));
    let id = container.id.as_str();
    let verbs: [&[&str]; 3] =
        [&["pause", id], &["update", "--memory", "67108864", id], &["events", "--stats", id]];
    for verb in verbs {
        runtime.verb(verb).exits(1).complains(&["control group", "systemd-run"]);
    }
    let without = &container.state()["annotations"]["dev.cofferdam.rootless.without"];
    assert!(without.as_str().unwrap().contains("a control group"), "{without}");
}

#[test]
fn files_that_nobody_names_are_in_the_user_s_own_places() {
    let user = User::shared();
    let program = user.reachable(Path::new(&cofferdam_e2e::setting("COFFERDAM_BIN")));
    let bundle = Bundle::busybox(&["true"]).owned_by(&user);
    let ran = user
        .command(&program.join("cofferdam"))
        .args(["--isolation", "namespace", "run", "--bundle"])
        .arg(bundle.path())
        .arg("places")
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(user.home().join("cofferdam").is_dir());
    assert!(user.home().join(".cache/cofferdam/seccomp").is_dir());
}
