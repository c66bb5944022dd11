//! The Container Runtime Interface: what the kubelet asks of containerd, with pods that are Cofferdam's,
//! in either mode.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use cofferdam_e2e::cri::message::{ContainerConfig, NamespaceMode};
use cofferdam_e2e::cri::{Pod, PodContainer};
use cofferdam_e2e::{Containerd, Cri, Mode, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Ends with code 3 on SIGTERM.
const WAITING: &str = "echo waiting; trap 'exit 3' TERM; while :; do sleep 0.1; done";

const BOOT: &str = "/proc/sys/kernel/random/boot_id";

fn kernel(container: &PodContainer) -> String {
    container.exec(&format!("cat {BOOT}")).exits(0).stdout.clone()
}

/// A script that asks a server for its page.
fn get(host: &str) -> String {
    format!("printf 'GET /page HTTP/1.0\\r\\n\\r\\n' | nc {host} 8080 | tail -1")
}

/// The limit of a container whose machine would not grow for two of them.
const LIMIT: i64 = 1536 << 20;

/// With that limit, and a score of the kubelet's for one that asks for little of it.
fn limited(config: &mut ContainerConfig) {
    let resources = config.linux.as_mut().unwrap().resources.mut_or_insert_default();
    resources.memory_limit_in_bytes = LIMIT;
    resources.oom_score_adj = 900;
}

/// A container that serves a page.
fn serving(pod: &Pod) -> PodContainer {
    let script = "mkdir /www; echo served > /www/page; echo up; echo wrong >&2; \
                  exec httpd -f -p 8080 -h /www";
    let server = pod.start_with("server", script, limited);
    until("it serves", || server.exec(&get("127.0.0.1")).stdout == "served\n");
    server
}

#[test]
fn containers_of_a_pod_share_a_kernel_and_a_network_and_answer_each_for_itself() {
    let containerd = Containerd::with_cri();
    let cri = Cri::of(&containerd);
    let before = containerd.leftovers();
    // As the kubelet announces it.
    let pod = cri.try_pod("shared", |config| {
        let resources = config.linux.as_mut().unwrap().resources.mut_or_insert_default();
        resources.memory_limit_in_bytes = 2 * LIMIT;
    });
    let pod = pod.unwrap();
    let server = serving(&pod);
    let client = pod.start_with("client", "exec sleep 1000", limited);
    assert_eq!(containerd.shims().len(), 1);

    assert_eq!(kernel(&server), kernel(&client));
    let own = fs::read_to_string(BOOT).unwrap();
    assert_eq!(kernel(&client) == own, Mode::current() == Mode::Namespace);
    client.exec(&get("127.0.0.1")).exits(0).prints("served\n");
    containerd.on_the_host(&["busybox", "sh", "-c", &get(&pod.ip())]).exits(0).prints("served\n");
    client.exec("cat /proc/self/oom_score_adj").exits(0).prints("900\n");
    client.exec("hostname; cat /www/page").exits(1).prints("shared\n");
    let forwarded = pod.forward(8080).ask("GET /page HTTP/1.0\r\n\r\n");
    assert!(forwarded.data.ends_with("\r\n\r\nserved\n"), "{forwarded:?}");
    // With a machine in between it is only known when somebody has connected.
    let refused = pod.forward(8081).ask("");
    assert_eq!(refused.data, "");
    assert!(refused.error.contains(": connection re"), "{refused:?}");

    client
        .exec("echo said; echo wrong >&2; exit 5")
        .exits(5)
        .prints("said\n")
        .complains(&["wrong"]);
    let line = |stream: &str, text: &str| (stream.to_owned(), text.to_owned());
    let mut logged = server.logged();
    logged.sort();
    assert_eq!(logged, [line("stderr", "wrong"), line("stdout", "up")]);
    let used = server.stats();
    assert!(used.cpu.usage_core_nano_seconds.value > 0, "{used}");
    assert!(used.memory.working_set_bytes.value > 0, "{used}");
    // Processes are each one's own, unless a container is to have its pod's.
    // The sandbox's process is the image's, or the shim's where containerd leaves sandboxes to it.
    let pause = "ps -o args | grep -c '[s]leep 1000000\\|[p]ause -pause'";
    client.exec(pause).exits(1).prints("0\n");
    let onlooker = pod.start_with("onlooker", "exec sleep 1000", |config| {
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        let namespaces = security.namespace_options.as_mut().unwrap();
        namespaces.pid = NamespaceMode::POD.into();
    });
    onlooker.exec(pause).exits(0).prints("1\n");
    onlooker.stop();
    assert_eq!(onlooker.ended(), 143);
    // CRI's default filter: no mount, whatever the user.
    client.exec("mkdir /m; mount -t tmpfs none /m").exits(1).complains(&["ermi"]);

    pod.stop();
    assert!(!pod.is_ready());
    assert_eq!(client.ended(), 137);
    pod.remove();
    containerd.no_pod_is_left_since(&before);
}

#[test]
fn a_container_ends_by_its_own_code_and_is_made_again_in_the_running_pod() {
    let containerd = Containerd::with_cri();
    let cri = Cri::of(&containerd);
    let before = containerd.leftovers();
    let pod = cri.pod("lasting");
    let other = pod.start("other", "exec sleep 1000");
    for attempt in 0..2 {
        let container = pod.start_with("again", WAITING, |config| {
            config.metadata.as_mut().unwrap().attempt = attempt;
            config.log_path = format!("again/{attempt}.log");
        });
        until("it waits", || container.logged().len() == 1);
        container.stop();
        assert_eq!(container.ended(), 3);
        container.remove();
    }
    let greedy = pod.start_with("greedy", "x=x; while :; do x=$x$x; done", |config| {
        config.linux.as_mut().unwrap().resources.mut_or_insert_default().memory_limit_in_bytes =
            32 << 20;
    });
    assert_eq!(greedy.ended(), 137);
    assert_eq!(greedy.status().reason, "OOMKilled");
    let refused = pod.try_start("absent", "", |config| {
        config.command = vec!["/nosuch".to_owned()];
    });
    let refused = refused.unwrap_err().message;
    assert!(refused.contains("/nosuch") && refused.contains("no such file"), "{refused}");
    other.exec("true").exits(0);
    pod.remove();
    containerd.no_pod_is_left_since(&before);
}

#[test]
fn a_pod_is_found_again_by_a_new_containerd_and_ends_with_its_shim() {
    let mut containerd = Containerd::with_cri();
    let before = containerd.leftovers();
    let pod = Cri::of(&containerd).pod("found");
    let container = pod.start("inside", WAITING);
    let shim = containerd.shims()[0];
    containerd.restart();
    let _ = Cri::of(&containerd);
    assert!(pod.is_ready());
    container.exec("echo said").exits(0).prints("said\n");

    let doomed = Cri::of(&containerd).pod("doomed");
    let lost = doomed.start("inside", WAITING);
    end(containerd.shims().into_iter().find(|other| *other != shim).unwrap());
    is_lost(&doomed, &lost);
    container.exec("echo again").exits(0).prints("again\n");

    containerd.restart_after(|| end(shim));
    let _ = Cri::of(&containerd);
    is_lost(&pod, &container);
    containerd.no_pod_is_left_since(&before);
}

fn end(process: i32) {
    kill(Pid::from_raw(process), Signal::SIGKILL).unwrap();
}

/// A pod whose shim was killed has ended with its container, and can be taken away.
fn is_lost(pod: &Pod, container: &PodContainer) {
    // containerd's own number for an end that it has not seen, where it is faster than the cleaning up.
    assert!([137, 255].contains(&container.ended()));
    until("the pod is not ready", || !pod.is_ready());
    pod.remove();
}
