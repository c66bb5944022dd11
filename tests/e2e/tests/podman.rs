//! Podman and Buildah with Cofferdam as the runtime: what people type gives what it gives with runc.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use cofferdam_e2e::{Mode, PODMAN_IMAGE, Podman, until};

#[test]
fn run_has_the_streams_the_code_and_the_restrictions_that_its_flags_say() {
    let podman = Podman::new();
    let run =
        ["run", "--rm", "--interactive", PODMAN_IMAGE, "sh", "-c", "cat; echo no >&2; exit 7"];
    podman.podman_with_input(&run, b"typed\n").exits(7).prints("typed\n").complains(&["no"]);
    let missing = podman.run_with_runc(&["--rm"], &["nosuch"]);
    podman.run(&["--rm"], &["nosuch"]).exits(missing.code).complains(&["nosuch", "not found"]);
    let flags = ["--rm", "--read-only", "--user", "1000:1000", "--cap-drop", "ALL", "--init"];
    let flags = [&flags[..], &["--hostname", "same"]].concat();
    let script = "id -u; id -g; touch /x; grep Cap /proc/self/status; cat /proc/1/comm; pwd; env; \
                  ulimit -n; mount | grep -o ' on /run type.* (r[ow]'";
    let (ours, theirs) = (
        podman.run(&flags, &["sh", "-c", script]),
        podman.run_with_runc(&flags, &["sh", "-c", script]),
    );
    for said in ["1000\n1000\n", "CapBnd:\t0000000000000000\n", "\npodman-init\n"] {
        assert!(ours.stdout.contains(said), "{ours:?}");
    }
    ours.exits(0).prints(&theirs.stdout).complains(&["Read-only file system"]);
    has_a_terminal(&podman);
    podman.has_left_nothing();
}

fn has_a_terminal(podman: &Podman) {
    let script = "read line; echo got $line; until [ \"$(stty size)\" = \"33 77\" ]; \
                  do sleep 0.1; done; stty size; tty; exit 4";
    let run = ["run", "--rm", "--interactive", "--tty", PODMAN_IMAGE, "sh", "-c", script];
    let shown = podman.podman_in_a_terminal("stty rows 33 cols 77", &run, b"typed\n");
    let said = &shown.exits(4).stdout;
    assert!(said.ends_with("got typed\r\n33 77\r\n/dev/pts/0\r\n"), "{said:?}");
}

#[test]
fn a_container_in_the_background_is_looked_at_paused_and_stopped() {
    let podman = Podman::new();
    let script = "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done";
    let flags = ["--detach", "--name", "back", "--memory", "64m", "--pids-limit", "50"];
    podman.run(&flags, &["sh", "-c", script]).exits(0);
    until("it has said so", || podman.podman(&["logs", "back"]).stdout == "up\n");
    let exec = ["exec", "--interactive", "back", "sh", "-c", "cat; exit 5"];
    podman.podman_with_input(&exec, b"typed\n").exits(5).prints("typed\n");
    podman.podman(&["exec", "back", "nosuch"]).exits(127).complains(&["nosuch", "not found"]);
    // With descriptors of ps(1)'s own Podman runs it in the container.
    let top = podman.podman(&["top", "back", "-o", "pid,args"]).exits(0).stdout.clone();
    assert!(top.contains("1 sh -c trap"), "{top}");
    let stats = ["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "back"];
    let stats = podman.podman(&stats).exits(0).stdout.clone();
    // Podman reads the sandbox's group: a microVM's, not its workload's.
    let limit = if Mode::current() == Mode::Namespace { " 67.11MB " } else { "MB " };
    assert!(stats.contains(limit) && !stats.starts_with("0B"), "{stats}");
    podman.podman(&["pause", "back"]).exits(0);
    assert_eq!(podman.inspect("back", "{{.State.Status}}"), "paused");
    let file = podman.folder().join("copied");
    fs::write(&file, "copied\n").unwrap();
    // Of one that runs Podman takes the mount namespace of the pid for the container's: a microVM's
    // is the monitor's jail.
    podman.podman(&["cp", file.to_str().unwrap(), "back:/copied"]).exits(0);
    podman.podman(&["unpause", "back"]).exits(0);
    assert!(podman.podman(&["diff", "back"]).stdout.contains("A /copied"));
    podman.podman(&["restart", "--time", "60", "back"]).exits(0);
    podman.podman(&["exec", "back", "cat", "/copied"]).exits(0).prints("copied\n");
    podman.podman(&["stop", "--time", "60", "back"]).exits(0);
    assert_eq!(podman.inspect("back", "{{.State.ExitCode}} {{.State.Status}}"), "3 exited");
    podman.podman(&["rm", "back"]).exits(0);
    podman.has_left_nothing();
}

#[test]
fn a_network_carries_published_ports_and_knows_its_containers_by_name() {
    let podman = Podman::new();
    podman.podman(&["network", "create", "named"]).exits(0);
    let serve = ["nc", "-ll", "-p", "80", "-e", "echo", "served"];
    let flags = ["--detach", "--name", "web", "--network", "named", "--publish", "8080:80"];
    podman.run(&flags, &serve).exits(0);
    let fetch = ["busybox", "nc", "127.0.0.1", "8080"];
    until("its port is published", || podman.on_the_host(&fetch).stdout == "served\n");
    let flags = ["--rm", "--network", "named", "--hostname", "other"];
    let script = "nc -w 20 web 80; ping -c 1 -W 20 web | grep -o '1 packets received'; \
                  hostname; ip -o -4 address show dev eth0 | grep -o 'inet 198.51.100'";
    let said = podman.run(&flags, &["sh", "-c", script]);
    said.exits(0).prints("served\n1 packets received\nother\ninet 198.51.100\n");
    let alone = podman.run(&["--rm", "--network", "none"], &["ip", "-o", "link"]);
    assert!(!alone.exits(0).stdout.contains("eth0"), "{alone:?}");
    podman.podman(&["rm", "--force", "--time", "0", "web"]).exits(0);
    podman.has_left_nothing();
}

#[test]
fn volumes_outlive_their_containers_and_limits_hold() {
    let podman = Podman::new();
    let shared = podman.folder().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("host"), "of the host\n").unwrap();
    let bind = format!("{}:/shared", shared.display());
    let flags = ["--rm", "--volume", &bind, "--volume", "kept:/kept", "--tmpfs", "/memory:size=1m"];
    let script = "cat /shared/host; echo kept >/kept/file; echo back >/shared/back; \
                  dd if=/dev/zero of=/memory/file bs=2M count=1 2>&1 | grep -o 'No space left'";
    let written = podman.run(&flags, &["sh", "-c", script]);
    written.exits(0).prints("of the host\nNo space left\n");
    assert_eq!(fs::read_to_string(shared.join("back")).unwrap(), "back\n");
    let readonly = [
        "--volume",
        "kept:/kept:ro",
        "--memory",
        "24m",
        "--memory-swap",
        "24m",
        "--name",
        "greedy",
    ];
    let script = "cat /kept/file; touch /kept/other; x=x; while :; do x=$x$x; done";
    let read = podman.run(&readonly, &["sh", "-c", script]);
    read.exits(137).prints("kept\n").complains(&["Read-only file system"]);
    assert_eq!(podman.inspect("greedy", "{{.State.ExitCode}}"), "137");
    podman.podman(&["rm", "--volumes", "greedy"]).exits(0);
    podman.has_left_nothing();
}

#[test]
fn images_are_built_by_podman_and_by_buildah() {
    let podman = Podman::new();
    let context = podman.folder().join("context");
    fs::create_dir(&context).unwrap();
    let file = format!("FROM {PODMAN_IMAGE}\nRUN echo built >/made\nCMD [\"cat\", \"/made\"]\n");
    fs::write(context.join("Containerfile"), file).unwrap();
    podman.podman(&["build", "--tag", "made", context.to_str().unwrap()]).exits(0);
    podman.podman(&["run", "--rm", "localhost/made"]).exits(0).prints("built\n");
    let isolation = format!("isolation={}", Mode::current().flag());
    podman.on_the_host(&["buildah", "from", "--name", "working", PODMAN_IMAGE]).exits(0);
    let run = ["buildah", "run", "--runtime-flag", &isolation, "working", "--"];
    let step = [&run[..], &["sh", "-c", "echo $PPID >/step; echo done; exit 6"]].concat();
    podman.on_the_host(&step).exits(6).prints("done\n");
    podman.on_the_host(&["buildah", "rm", "working"]).exits(0);
    podman.has_left_nothing();
}

#[test]
fn the_containers_of_a_pod_share_its_network() {
    let podman = Podman::new();
    // A control group of the pod's own is not needed, and Podman cannot remove one where a folder in
    // /sys/fs/cgroup is no hierarchy.
    let create = ["pod", "create", "--share-parent=false", "--name", "pod", "--publish", "8080:80"];
    podman.podman(&create).exits(0);
    let serve = ["nc", "-ll", "-p", "80", "-e", "echo", "served"];
    podman.run(&["--detach", "--pod", "pod"], &serve).exits(0);
    let fetch = ["busybox", "nc", "127.0.0.1", "8080"];
    until("its port is published", || podman.on_the_host(&fetch).stdout == "served\n");
    let second = podman.run(&["--rm", "--pod", "pod"], &["nc", "127.0.0.1", "80"]);
    second.exits(0).prints("served\n");
    podman.podman(&["pod", "rm", "--force", "--time", "0", "pod"]).exits(0);
    podman.has_left_nothing();
}
