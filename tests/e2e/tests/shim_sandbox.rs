//! containerd's Sandbox service, called as containerd does where a runtime's `sandboxer` is `shim`: a pod
//! without a pause image, in either mode.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use cofferdam_e2e::cri::message::{DnsConfig, LinuxSandbox, SandboxConfig, SandboxMetadata};
use cofferdam_e2e::{Bundle, Mode, Shim, until};
use serde_json::json;

const BOOT: &str = "/proc/sys/kernel/random/boot_id";

fn pod(name: &str) -> SandboxConfig {
    let dns = DnsConfig { servers: vec!["192.0.2.53".into()], ..Default::default() };
    let metadata = SandboxMetadata { name: name.to_owned(), ..Default::default() };
    let sysctls = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())];
    SandboxConfig {
        metadata: Some(metadata).into(),
        hostname: format!("{name}-host"),
        dns_config: Some(dns).into(),
        linux: Some(LinuxSandbox { sysctls: sysctls.into(), ..Default::default() }).into(),
        ..Default::default()
    }
}

/// As CRI describes one of a pod whose sandbox has this process.
fn container(pod: &str, sandbox: u32, script: &str) -> Bundle {
    let namespace = |kind: &str, file: &str| json!({ "type": kind, "path": format!("/proc/{sandbox}/ns/{file}") });
    Bundle::script(script).edit(|config| {
        config.as_object_mut().unwrap().remove("hostname");
        config["annotations"] = json!({
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": pod,
        });
        config["linux"]["namespaces"] = json!([
            { "type": "mount" }, { "type": "pid" },
            namespace("network", "net"), namespace("ipc", "ipc"), namespace("uts", "uts"),
        ]);
    })
}

#[test]
fn a_pod_is_made_without_an_image_and_its_containers_share_it() {
    let shim = Shim::start("pod");
    shim.create(&pod("web")).unwrap();
    assert_eq!(shim.status().unwrap().state, "SANDBOX_NOTREADY");
    let sandbox = shim.start_sandbox();
    let status = shim.status().unwrap();
    assert_eq!((&*status.state, status.pid), ("SANDBOX_READY", sandbox));
    assert!(status.info["info"].contains(&sandbox.to_string()), "{status}");
    shim.ping("pod").unwrap();
    assert!(shim.ping("other").unwrap_err().contains("The sandbox other does not exist"));
    assert_eq!(shim.platform().platform.os, "linux");

    let script = format!(
        "hostname; cat /etc/resolv.conf /etc/hostname; echo mine >/dev/shm/mark; \
         cat /proc/sys/net/ipv4/ip_unprivileged_port_start; cat {BOOT}; exit 3"
    );
    let (code, said) = shim.run("first", &container("pod", sandbox, &script));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..4], ["web-host", "nameserver 192.0.2.53", "web-host", "0"], "{said}");
    assert_eq!(code, 3);
    let script = format!("cat /dev/shm/mark {BOOT}");
    let (code, again) = shim.run("second", &container("pod", sandbox, &script));
    assert_eq!((code, again), (0, format!("mine\n{}\n", lines[4])));
    let own = fs::read_to_string(BOOT).unwrap();
    assert_eq!(lines[4] == own.trim(), Mode::current() == Mode::Namespace);

    // What is over with the last task is not over with the pod.
    shim.shutdown_tasks();
    assert!(shim.metrics().metrics.data.type_url.contains("Metrics"));
    assert_eq!(shim.stop(), 137);
    assert_eq!(shim.status().unwrap().state, "SANDBOX_NOTREADY");
    shim.shutdown();
    until("nothing is left", || shim.left().is_empty());
}

#[test]
fn a_pod_that_cannot_be_is_refused_and_leaves_nothing() {
    let shim = Shim::start("refused");
    let other = shim.create_from(
        containerd_shim_protos::protobuf::well_known_types::any::Any {
            type_url: "some.Pod".to_owned(),
            ..Default::default()
        },
        String::new(),
    );
    assert!(other.unwrap_err().contains("some.Pod"));
    let network = "/run/netns/nosuch".to_owned();
    let absent = shim.create_from(Default::default(), network.clone()).unwrap_err();
    assert!(absent.contains(&network), "{absent}");
    assert!(shim.status().unwrap_err().contains("does not exist"));
    // It has made nothing that is in the next one's way.
    shim.create(&pod("later")).unwrap();
    shim.shutdown();
    until("nothing is left", || shim.left().is_empty());
}

/// containerd has a killed shim delete the sandbox, and none of the containers in it.
#[test]
fn with_a_killed_shim_goes_the_pod_and_every_container_in_it() {
    let shim = Shim::start("doomed");
    shim.create(&pod("doomed")).unwrap();
    let sandbox = shim.start_sandbox();
    let bundle = container("doomed", sandbox, "exec sleep 1000");
    shim.start_container("inside", &bundle);
    shim.kill();
    until("nothing is left", || shim.left().is_empty());
    let name = bundle.path().file_name().unwrap().to_str().unwrap().to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&name), "{mounts}");
}
