//! A container that is a machine of its own: systemd as its first process, and a Docker engine with
//! containers of its own inside. What it takes is in the guest: its own kernel, a cgroup v2
//! hierarchy that is delegated whole, and nothing of the host.

// A fixture is part of a test.
#![allow(clippy::expect_used)]

use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_e2e::{Bundle, Container, Leftovers, Runtime, setting};
use serde_json::json;

/// In the lab systemd and Docker take two minutes where the machine is busy.
const BOOT_DEADLINE: Duration = Duration::from_secs(300);

/// A Debian with 512 MiB, and a busybox tree that images can be made from.
fn machine() -> Bundle {
    Bundle::machine()
        .mount(json!({
            "destination": "/busybox", "type": "bind", "source": setting("COFFERDAM_BUSYBOX"),
            "options": ["rbind", "ro"]
        }))
        .edit(|config| config["linux"]["resources"]["memory"] = json!({ "limit": 512 << 20 }))
}

/// What systemd says of the machine once it has come to an end with booting.
fn booted(container: &Container<'_>) -> String {
    let end = Instant::now() + BOOT_DEADLINE;
    loop {
        let said = container.exec(&["systemctl", "is-system-running"]).stdout;
        if ["running", "degraded", "maintenance"].contains(&said.trim()) || Instant::now() > end {
            return said.trim().to_owned();
        }
        thread::sleep(Duration::from_secs(1));
    }
}

fn inside(container: &Container<'_>, script: &str) -> String {
    let outcome = container.exec(&["sh", "-c", script]);
    outcome.exits(0);
    outcome.stdout.trim().to_owned()
}

#[test]
fn systemd_boots_and_docker_runs_containers_inside() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    {
        let container = runtime.start(&machine());
        assert_eq!(booted(&container), "running", "{}", failed_units(&container));
        assert_eq!(inside(&container, "cat /proc/1/comm"), "systemd");
        // Each service has a control group of its own, which systemd made.
        assert_eq!(
            inside(&container, "cat /proc/$(pidof dockerd)/cgroup"),
            "0::/system.slice/docker.service"
        );
        inside(&container, "tar --directory /busybox --create . | docker import - box");
        let said =
            inside(&container, "docker run --rm --memory 32m box sh -c 'echo from $(hostname)'");
        assert!(said.starts_with("from "), "{said}");
        // On Docker's bridge, behind its address translation.
        inside(
            &container,
            "docker run --detach --name served --publish 8080:80 box sh -c \
             'echo answered > /index.html; exec httpd -f -p 80 -h /'",
        );
        let answer = "for i in $(seq 50); do docker run --rm --network host box \
            wget -q -O - http://127.0.0.1:8080/index.html && exit 0; sleep 0.2; done; exit 1";
        assert_eq!(inside(&container, answer), "answered");
        assert_eq!(inside(&container, "docker exec served cat /index.html"), "answered");
        inside(&container, "docker rm --force served");
    }
    before.none_since(&runtime);
}

fn failed_units(container: &Container<'_>) -> String {
    container.exec(&["systemctl", "--failed", "--no-legend", "--plain"]).stdout
}

#[test]
fn a_machine_that_is_told_to_power_off_has_stopped() {
    let runtime = Runtime::cofferdam();
    let bundle = machine();
    for unit in ["docker.service", "docker.socket", "containerd.service"] {
        let place = bundle.rootfs().join("etc/systemd/system").join(unit);
        symlink("/dev/null", place).expect("units can be masked");
    }
    let container = runtime.start(&bundle);
    assert_eq!(booted(&container), "running", "{}", failed_units(&container));
    // What an engine sends to a systemd: SIGRTMIN+3, halt.
    container.kill("37").exits(0);
    container.becomes("stopped");
    container.verb("delete").exits(0);
}
