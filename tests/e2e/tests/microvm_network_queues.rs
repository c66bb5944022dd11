//! The queues of a microVM's interfaces: its processors send and receive side by side.

// A fixture is part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{self, Read as _};
use std::net::TcpListener;
use std::thread;

use cofferdam_e2e::{Bundle, Container, Exposition, HOST, Runtime, Wire};
use serde_json::json;

/// What each processor sends.
const MUCH: usize = 1 << 20;
/// What Linux sends before it hears anything: ten segments.
const FIRST_WINDOW: f64 = 10.0 * 1448.0;
/// Connections at once: more than there are queues.
const CONNECTIONS: usize = 6;

/// A container in the wire's namespace that waits, in a machine of so many processors.
fn joined(wire: &Wire, processors: u32) -> Bundle {
    Bundle::busybox(&["sleep", "1000"]).edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        let network = namespaces.iter_mut().find(|entry| entry["type"] == "network").unwrap();
        network["path"] = json!(wire.path());
        let cpu = json!({ "quota": processors * 100_000, "period": 100_000 });
        config["linux"]["resources"]["cpu"] = cpu;
    })
}

fn inside(container: &Container<'_>, script: &str) -> String {
    let outcome = container.exec(&["sh", "-c", script]);
    assert_eq!(outcome.code, 0, "{script}: {}{}", outcome.stdout, outcome.stderr);
    outcome.stdout
}

fn queues(container: &Container<'_>) -> String {
    inside(container, "ls /sys/class/net/eth0/queues")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// What went through a queue of the interface's.
fn carried(runtime: &Runtime, container: &Container<'_>, queue: &str, direction: &str) -> f64 {
    let found = Exposition::parse(&runtime.verb(&["metrics"]).exits(0).stdout);
    let labels = [
        ("sandbox", container.id.as_str()),
        ("device", "net"),
        ("queue", queue),
        ("direction", direction),
    ];
    found.value("cofferdam_virtio_transferred_bytes_total", &labels)
}

/// Has one processor send much; how much came.
fn sent_by(container: &Container<'_>, processor: u32) -> usize {
    let listener = TcpListener::bind((HOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sink = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap()
    });
    let (mask, count) = (1 << processor, MUCH >> 16);
    let send = format!("dd if=/dev/zero bs=65536 count={count} 2>/dev/null | nc {HOST} {port}");
    inside(container, &format!("taskset {mask} sh -c '{send}'"));
    sink.join().unwrap()
}

/// Sends back what comes by so many connections at once; where.
fn echo(connections: usize) -> u16 {
    let listener = TcpListener::bind((HOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().take(connections) {
            let mut stream = stream.unwrap();
            thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    port
}

#[test]
fn two_processors_send_and_receive_by_two_pairs_of_queues() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::connected();
    let container = runtime.start(&joined(&wire, 2));
    assert_eq!(queues(&container), "rx-0 rx-1 tx-0 tx-1");
    let tap = wire.inside(&["-d", "link", "show", "type", "tun"]);
    assert!(tap.contains("multi_queue numqueues 2"), "{tap}");
    for (processor, transmit, receive) in [(0, "1", "0"), (1, "3", "2")] {
        let carried = || {
            [(transmit, "from_guest"), (receive, "to_guest")]
                .map(|(queue, direction)| carried(&runtime, &container, queue, direction))
        };
        let [sent_before, received_before] = carried();
        assert_eq!(sent_by(&container, processor), MUCH);
        let [sent, received] = carried();
        // Its first window at least: what an acknowledgement lets go is sent by whoever hears it.
        assert!(sent - sent_before > FIRST_WINDOW, "{transmit}: {sent_before}, {sent}");
        // The host's kernel answers by the queue that a connection came from.
        assert!(received > received_before, "{receive}: {received_before}, {received}");
    }
}

#[test]
fn connections_at_once_go_by_all_queues_and_keep_what_they_carry() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::connected();
    let container = runtime.start(&joined(&wire, 2));
    let port = echo(CONNECTIONS);
    let one = format!("seq $n 30000 | nc {HOST} {port} | cmp - /tmp/$n && echo $n");
    let all = format!(
        "mkdir -p /tmp; for n in $(seq {CONNECTIONS}); do seq $n 30000 > /tmp/$n; done
         for n in $(seq {CONNECTIONS}); do ( {one} ) & done; wait"
    );
    let whole = inside(&container, &all).lines().count();
    assert_eq!(whole, CONNECTIONS);
}

#[test]
fn one_processor_has_one_pair_and_keeps_it_when_another_comes() {
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), "[microvm]\nmax_vcpus = 2\n").unwrap();
    let path = config.path().display().to_string();
    let runtime = Runtime::cofferdam_with(&["--isolation", "microvm", "--config", &path]);
    let wire = Wire::connected();
    let container = runtime.start(&joined(&wire, 1));
    assert_eq!(queues(&container), "rx-0 tx-0");
    runtime
        .verb(&["update", "--cpu-quota", "200000", "--cpu-period", "100000", &container.id])
        .exits(0);
    assert_eq!(inside(&container, "nproc").trim(), "2");
    assert_eq!(queues(&container), "rx-0 tx-0");
    assert_eq!(sent_by(&container, 1), MUCH);
}
