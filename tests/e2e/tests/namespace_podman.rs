//! Podman of an ordinary user, whose containers are in the user namespace that Podman made.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use cofferdam_e2e::{PODMAN_IMAGE, Podman, until};

#[test]
fn an_ordinary_user_runs_builds_and_has_pods() {
    let podman = Podman::rootless();
    let flags = ["--rm", "--network", "none", "--user", "1000:1000", "--hostname", "same"];
    let script = "id -u; hostname; grep Cap /proc/self/status; tail -n 1 /proc/self/uid_map; touch /x; exit 3";
    let script = ["sh", "-c", script];
    let theirs = podman.run_with_runc(&flags, &script);
    let ours = podman.run(&flags, &script);
    ours.exits(3).prints(&theirs.stdout).complains(&["touch: /x: Permission denied"]);
    let flags = ["--detach", "--network", "none", "--name", "back"];
    podman.run(&flags, &["sh", "-c", "echo up; exec sleep 1000"]).exits(0);
    until("it has said so", || podman.podman(&["logs", "back"]).stdout.ends_with("up\n"));
    podman.podman(&["exec", "--tty", "back", "tty"]).exits(0).prints("/dev/pts/0\r\n");
    assert!(podman.podman(&["top", "back"]).exits(0).stdout.contains("sleep 1000"));
    podman.podman(&["rm", "--force", "--time", "0", "back"]).exits(0);
    builds(&podman);
    podman.podman(&["pod", "create", "--network", "none", "--name", "pod"]).exits(0);
    podman.run(&["--rm", "--pod", "pod"], &["echo", "of a pod"]).exits(0).prints("of a pod\n");
    podman.podman(&["pod", "rm", "--force", "--time", "0", "pod"]).exits(0);
    podman.has_left_nothing();
}

fn builds(podman: &Podman) {
    let file = podman.folder().join("Containerfile");
    fs::write(&file, format!("FROM {PODMAN_IMAGE}\nRUN echo built >/made\n")).unwrap();
    let build = ["build", "--network", "none", "--tag", "made", "--file", file.to_str().unwrap()];
    podman.podman(&build).exits(0);
    let run = ["run", "--rm", "--network", "none", "localhost/made", "cat", "/made"];
    podman.podman(&run).exits(0).prints("built\n");
}
