//! What `metrics` shows of a microVM's monitor.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use cofferdam_e2e::{Bundle, Exposition, Runtime, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn look(runtime: &Runtime) -> Exposition {
    Exposition::parse(&runtime.verb(&["metrics"]).exits(0).stdout)
}

fn sleeper() -> Bundle {
    Bundle::busybox(&["sleep", "1000"])
}

#[test]
fn a_monitor_shows_its_memory_its_exits_and_its_queues() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&sleeper());
    container.exec(&["sh", "-c", "cat /bin/busybox >/dev/null"]).exits(0);
    let found = look(&runtime);
    let sandbox = [("sandbox", container.id.as_str())];
    assert_eq!(found.value("cofferdam_monitors", &[("outcome", "answered")]), 1.0);
    assert!(found.value("cofferdam_guest_memory_bytes", &sandbox) > 8e6);
    let of_monitor = found.value("cofferdam_monitor_memory_bytes", &sandbox);
    assert!((1e6..64e6).contains(&of_monitor), "{of_monitor}");
    let exits = |reason| {
        let labels = [sandbox[0], ("reason", reason)];
        found.value("cofferdam_vcpu_monitor_exits_total", &labels)
    };
    assert!(exits("mmio_write") > 0.0);
    let all = found.value("cofferdam_kvm_exits_total", &sandbox);
    assert!(all >= exits("mmio_write"), "{all}");
    let files = [sandbox[0], ("device", "fs"), ("direction", "to_guest")];
    assert!(found.sum("cofferdam_virtio_transferred_bytes_total", &files) > 1e5);
    let raised = found.value("cofferdam_virtio_interrupts_total", &files[..2]);
    assert!(raised > 0.0, "{raised}");
    container.exec(&["ls", "/"]).exits(0);
    let later = look(&runtime);
    for name in ["cofferdam_kvm_exits_total", "cofferdam_virtio_buffers_total"] {
        assert!(later.sum(name, &sandbox) > found.sum(name, &sandbox), "{name}");
    }
}

#[test]
fn a_monitor_that_stands_still_holds_up_no_look() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&sleeper());
    let pid = Pid::from_raw(container.pid());
    kill(pid, Signal::SIGSTOP).unwrap();
    let found = look(&runtime);
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!(found.value("cofferdam_monitors", &[("outcome", "silent")]), 1.0);
    assert_eq!(found.value("cofferdam_monitors", &[("outcome", "answered")]), 0.0);
    until("it answers again", || {
        look(&runtime).value("cofferdam_monitors", &[("outcome", "answered")]) == 1.0
    });
}
