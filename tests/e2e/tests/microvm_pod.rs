//! A pod: several containers in one microVM, as a Kubernetes runtime and Podman ask for it by
//! annotations and namespace paths.

use std::fs;
use std::thread;

use cofferdam_e2e::{Bundle, Container, Leftovers, Outcome, Runtime, until};
use serde_json::{Value, json};

const KIND: &str = "io.kubernetes.cri.container-type";
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";
const ANNOUNCED: &str = "io.kubernetes.cri.sandbox-memory";

/// A bundle for the container that the pod's machine is made for.
fn sandbox() -> Bundle {
    Bundle::busybox(&["sleep", "10000"])
        .edit(|config| config["annotations"] = json!({ KIND: "sandbox" }))
}

/// A bundle for a container of its pod.
fn member(sandbox: &Container<'_>, script: &str) -> Bundle {
    let pid = sandbox.pid();
    let annotations = json!({ KIND: "container", SANDBOX: sandbox.id });
    Bundle::busybox(&["sh", "-c", script]).edit(|config| {
        config["annotations"] = annotations;
        for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
            set_path(config, kind, &format!("/proc/{pid}/ns/{file}"));
        }
    })
}

/// A bundle for a container of its pod that is among the sandbox's processes.
fn onlooker(sandbox: &Container<'_>, script: &str) -> Bundle {
    let pid = sandbox.pid();
    member(sandbox, script).edit(|config| set_path(config, "pid", &format!("/proc/{pid}/ns/pid")))
}

/// The programs that sleep, as a container sees them.
fn sleepers(container: &Container<'_>) -> String {
    exec(container, "ps -o args | grep '^sleep' | sort").stdout
}

/// A bundle for a container of its pod with a limit of this many MiB.
fn limited(sandbox: &Container<'_>, mib: u64) -> Bundle {
    member(sandbox, "exec sleep 1000").edit(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": mib << 20 });
    })
}

/// The machine's memory, in MiB.
fn total(sandbox: &Container<'_>) -> u64 {
    let said = exec(sandbox, "grep MemTotal /proc/meminfo | tr -dc 0-9").stdout;
    said.parse::<u64>().unwrap_or_default() >> 10
}

/// With this score against the want of memory.
fn scored(bundle: Bundle, score: i32) -> Bundle {
    bundle.edit(|config| config["process"]["oomScoreAdj"] = json!(score))
}

fn set_path(config: &mut Value, kind: &str, path: &str) {
    let namespaces = config["linux"]["namespaces"].as_array_mut().into_iter().flatten();
    for namespace in namespaces.filter(|namespace| namespace["type"] == kind) {
        namespace["path"] = json!(path);
    }
}

/// How many mounts the machine's file server has.
fn mounts(sandbox: &Container<'_>) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", sandbox.pid())).into_iter().flatten();
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut servers = tasks
        .filter_map(|task| Some(task.ok()?.path()))
        .filter(|task| read(task.join("comm")).trim() == "fs");
    servers.next().map_or(0, |task| read(task.join("mountinfo")).lines().count())
}

fn exec(container: &Container<'_>, script: &str) -> Outcome {
    container.exec(&["sh", "-c", script])
}

#[test]
fn containers_of_a_pod_share_a_kernel_a_network_and_no_file() {
    let runtime = Runtime::cofferdam();
    let sandbox = runtime.start(&sandbox());
    let bundle = member(&sandbox, "echo first > /mine; exec httpd -f -p 8080 -h /");
    let first = runtime.start(&bundle);
    let second = runtime.start(&member(&sandbox, "echo second > /mine; exec sleep 1000"));
    let boot = |container| exec(container, "cat /proc/sys/kernel/random/boot_id").stdout;
    assert_eq!(boot(&sandbox), boot(&first));
    assert_eq!(boot(&first), boot(&second));
    exec(&first, "cat /mine").exits(0).prints("first\n");
    exec(&second, "cat /mine").exits(0).prints("second\n");
    let seen =
        exec(&second, "printf 'GET /mine HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 8080 | tail -1");
    seen.exits(0).prints("first\n");
    let ipc = |container| exec(container, "readlink /proc/self/ns/ipc /proc/self/ns/uts").stdout;
    assert_eq!(ipc(&sandbox), ipc(&first));
    assert_eq!(ipc(&first), ipc(&second));
    // Processes are each container's own.
    exec(&second, "ps -o comm | grep -c httpd").exits(1).prints("0\n");
    assert_eq!(first.status(), "running");
}

#[test]
fn a_member_has_its_own_output_and_code_and_leaves_the_pod_as_it_was() {
    let runtime = Runtime::cofferdam();
    let sandbox = runtime.start(&sandbox());
    let (before, alone) = (Leftovers::before(&runtime), mounts(&sandbox));
    for code in [0, 7] {
        let bundle =
            member(&sandbox, &format!("echo said; cat /etc/hostname; exit {code}")).mount(json!({
                "destination": "/etc/hostname", "type": "bind", "source": "/etc/hostname",
                "options": ["rbind", "ro"]
            }));
        let host = fs::read_to_string("/etc/hostname").unwrap();
        runtime.run(&bundle).exits(code).prints(&format!("said\n{host}"));
    }
    assert!(alone > 0);
    assert_eq!(mounts(&sandbox), alone);
    before.none_since(&runtime);
    assert_eq!(sandbox.status(), "running");
}

#[test]
fn a_member_that_is_killed_is_gone_and_the_others_run_on() {
    let runtime = Runtime::cofferdam();
    let sandbox = runtime.start(&sandbox());
    let first = runtime.start(&member(&sandbox, "exec sleep 1000"));
    let second = runtime.start(&member(&sandbox, "exec sleep 1000"));
    let third = runtime.start(&member(&sandbox, "exec sleep 1000"));
    first.kill("KILL").exits(0);
    first.becomes("stopped");
    // Its process on the host stands for it.
    let pid = nix::unistd::Pid::from_raw(second.pid());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    second.becomes("stopped");
    sandbox.exec(&["true"]).exits(0);
    third.verb("pause").exits(0);
    assert_eq!(third.status(), "paused");
    third.verb("resume").exits(0);
    third.exec(&["true"]).exits(0);
    drop(first);
    drop(second);
    assert_eq!(third.status(), "running");
}

#[test]
fn containers_that_share_their_pods_processes_end_each_with_its_own() {
    let runtime = Runtime::cofferdam();
    let sandbox = runtime.start(&sandbox());
    let alone = runtime.start(&member(&sandbox, "exec sleep 10001"));
    let first = runtime.start(&onlooker(&sandbox, "sleep 10011 & exec sleep 10012"));
    let second = runtime.start(&onlooker(&sandbox, "exec sleep 10021"));
    assert_eq!(sleepers(&alone), "sleep 10001\n");
    let all = "sleep 10000\nsleep 10011\nsleep 10012\nsleep 10021\n";
    until("the first one's programs run", || sleepers(&second) == all);
    assert_eq!(sleepers(&sandbox), all);

    let listed = runtime.verb(&["ps", &first.id]).stdout;
    let has = |text| listed.contains(text);
    assert!(has("sleep 10011") && has("sleep 10012") && !has("sleep 10021"), "{listed}");
    first.kill("TERM").exits(0);
    first.becomes("stopped");
    drop(first);
    assert_eq!(sleepers(&second), "sleep 10000\nsleep 10021\n");
    assert_eq!([second.status(), alone.status()], ["running", "running"]);

    let told = onlooker(&sandbox, "true").edit(|config| {
        config["hooks"] = json!({ "startContainer": [{ "path": "/bin/true" }] });
    });
    runtime.run(&told).exits(1).complains(&["hooks.startContainer", "pod's processes"]);
    sandbox.kill("KILL").exits(0);
    second.becomes("stopped");
}

#[test]
fn the_sandboxs_end_is_the_end_of_its_containers() {
    let runtime = Runtime::cofferdam();
    let sandbox = runtime.start(&sandbox());
    let first = runtime.start(&member(&sandbox, "exec sleep 1000"));
    sandbox.kill("KILL").exits(0);
    sandbox.becomes("stopped");
    first.becomes("stopped");
    drop(sandbox);
    drop(first);
}

/// As containerd does when a pod's shim was killed.
#[test]
fn a_pod_whose_containers_are_all_deleted_at_once_leaves_nothing() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let sandbox = runtime.start(&sandbox());
    let members: Vec<_> =
        (0..3).map(|_| runtime.start(&member(&sandbox, "exec sleep 1000"))).collect();
    let ids = members.iter().chain([&sandbox]).map(|container| container.id.clone());
    let delete = |id: String| runtime.verb(&["delete", "--force", &id]).exits(0).code;
    thread::scope(|scope| {
        for id in ids {
            scope.spawn(|| delete(id));
        }
    });
    before.none_since(&runtime);
}

#[test]
fn limits_are_each_containers_and_the_machine_grows_with_their_sum() {
    let runtime = Runtime::cofferdam();
    let sandbox = runtime.start(&sandbox().edit(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 128 << 20 });
    }));
    let groups = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup" });
    let alone = total(&sandbox);
    let first = runtime.start(&limited(&sandbox, 96).mount(groups));
    exec(&first, "cat /sys/fs/cgroup/memory.max").exits(0).prints(&format!("{}\n", 96 << 20));
    let second = runtime.start(&limited(&sandbox, 200));
    let both = total(&sandbox);
    assert!(both >= alone + 100, "{alone} MiB, and {both} with both");
    second.verb("delete").exits(1);
    runtime.verb(&["delete", "--force", &second.id]).exits(0);
    until("the machine shrinks", || total(&sandbox) < both);
    let refused = runtime.run(&limited(&sandbox, 100 << 10));
    refused.exits(1).complains(&["the pod's containers"]);
}

#[test]
fn a_machine_begins_with_what_containerd_announces_of_its_pod() {
    let runtime = Runtime::cofferdam();
    let announced = |value: &str| {
        let value = json!(value);
        sandbox().edit(|config| config["annotations"][ANNOUNCED] = value)
    };
    let large = runtime.start(&announced(&(3_u64 << 30).to_string()));
    let alone = total(&large);
    let first = runtime.start(&limited(&large, 1536));
    let second = runtime.start(&limited(&large, 1536));
    assert_eq!(total(&large), alone);
    assert_eq!([first.status(), second.status()], ["running", "running"]);

    let usual = runtime.start(&sandbox());
    let refused = runtime.run(&limited(&usual, 3072));
    refused
        .exits(1)
        .complains(&["the pod's containers are 3072 MiB together", "has room for 2206 MiB"]);
    runtime.run(&announced("3Gi")).exits(1).complains(&[ANNOUNCED, "3Gi", "no number"]);
    let most = i64::MAX.to_string();
    runtime.run(&announced(&most)).exits(1).complains(&[ANNOUNCED, "this host has"]);
}

#[test]
fn the_host_ends_the_machine_as_late_as_the_container_that_is_to_be_kept_longest() {
    let runtime = Runtime::cofferdam();
    let sandbox = runtime.start(&scored(sandbox(), 100));
    let of_the_monitor = || {
        let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", sandbox.pid()));
        score.unwrap().trim().to_owned()
    };
    assert_eq!(of_the_monitor(), "100");
    let start = |score| runtime.start(&scored(member(&sandbox, "exec sleep 1000"), score));
    // What the sandbox itself has counts no longer: it holds nothing.
    let first = start(900);
    assert_eq!(of_the_monitor(), "900");
    let second = start(500);
    assert_eq!(of_the_monitor(), "500");
    exec(&first, "cat /proc/self/oom_score_adj").exits(0).prints("900\n");
    exec(&second, "cat /proc/self/oom_score_adj").exits(0).prints("500\n");
    runtime.verb(&["delete", "--force", &second.id]).exits(0);
    assert_eq!(of_the_monitor(), "900");
    runtime.verb(&["delete", "--force", &first.id]).exits(0);
    assert_eq!(of_the_monitor(), "100");
}

#[test]
fn whoever_is_not_of_the_pod_does_not_get_in() {
    let runtime = Runtime::cofferdam();
    let sandbox = runtime.start(&sandbox());
    let own_network = member(&sandbox, "true").edit(|config| {
        set_path(config, "network", "/proc/self/ns/net");
    });
    runtime.run(&own_network).exits(1).complains(&["pod's network namespace"]);
    let stranger = member(&sandbox, "true").edit(|config| {
        config["annotations"][SANDBOX] = json!("nobody");
    });
    runtime.run(&stranger).exits(1).complains(&["nobody"]);
    let other_ipc = member(&sandbox, "true").edit(|config| {
        set_path(config, "ipc", "/proc/1/ns/ipc");
    });
    let other_processes = member(&sandbox, "true").edit(|config| {
        set_path(config, "pid", "/proc/1/ns/pid");
    });
    runtime.run(&other_processes).exits(1).complains(&["joining a namespace of the host"]);
    runtime.run(&other_ipc).exits(1).complains(&["joining a namespace of the host"]);
    let alone = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
    runtime.run(&member(&alone, "true")).exits(1).complains(&["not made for a pod"]);
}
