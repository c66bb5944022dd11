//! A microVM whose network changes while it runs: what somebody does to the container's network
//! namespace is done in the guest.

// A fixture is part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::process::Command;

use cofferdam_e2e::{
    Bundle, Container, Exposition, HOST, HOST6, INSIDE, INSIDE6, Leftovers, Runtime, Wire, until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// What the process that follows may have of its own: its program is every other command's too.
const MOST_KIB: u64 = 3 << 10;

/// A container in the wire's namespace that waits.
fn joined(wire: &Wire) -> Bundle {
    Bundle::busybox(&["sleep", "1000"]).edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_NET_RAW", "CAP_KILL"]);
        }
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        let network = namespaces.iter_mut().find(|entry| entry["type"] == "network").unwrap();
        network["path"] = json!(wire.path());
    })
}

fn inside(container: &Container<'_>, script: &str) -> String {
    let outcome = container.exec(&["sh", "-c", script]);
    assert_eq!(outcome.code, 0, "{script}: {}{}", outcome.stdout, outcome.stderr);
    outcome.stdout
}

/// The names of the guest's interfaces.
fn interfaces(container: &Container<'_>) -> String {
    // Without a look at each: one may get its name at that moment.
    let list = "cd /sys/class/net && echo *";
    inside(container, list).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The guest has what [`Wire::connect`] makes, and it leads to the host.
#[track_caller]
fn is_connected(container: &Container<'_>) {
    let ready = "ip route | grep -q '^default' && ip -6 route | grep -q '^default'";
    until("the guest has a default route", || container.exec(&["sh", "-c", ready]).code == 0);
    let addresses = inside(container, "ip address show eth0");
    assert!(addresses.contains(INSIDE) && addresses.contains(INSIDE6), "{addresses}");
    inside(container, &format!("ping -c 2 -W 10 {HOST} && ping -6 -c 2 -W 10 {HOST6}"));
}

fn ip(wire: &Wire, args: &str) {
    wire.inside(&args.split(' ').collect::<Vec<_>>());
}

/// No tap, and nothing on the engine's interfaces.
fn is_clean(wire: &Wire) -> bool {
    let links = wire.inside(&["-o", "link"]);
    !links.contains("cofferdam") && !wire.traffic_control(&["qdisc", "show"]).contains("ingress")
}

/// Those who follow a network in this container's group.
fn followers(container: &Container<'_>) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_one = |pid: &i32| {
        let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("comm").trim() == "cofferdam-net" && read("cgroup").contains(&container.id)
    };
    numbers.filter(is_one).collect()
}

fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":"));
    line.unwrap_or_default().trim().to_owned()
}

#[test]
fn an_interface_that_comes_later_and_one_that_goes_are_followed_again_and_again() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let wire = Wire::new();
    {
        // A network that nobody has put an interface into is no error.
        let container = runtime.start(&joined(&wire));
        assert_eq!(interfaces(&container), "lo");
        // There is room for two more than at the beginning, at a time.
        for _ in 0..3 {
            wire.connect(None, "eth0", 1500);
            is_connected(&container);
            ip(&wire, "link delete eth0");
            until("the guest has it no more", || interfaces(&container) == "lo");
            until("nothing is left of it", || is_clean(&wire));
        }
        wire.connect(None, "eth0", 1500);
        is_connected(&container);
        ip(&wire, "link set eth0 down");
        until("one that is down is none", || interfaces(&container) == "lo");
        until("nothing is left on it", || is_clean(&wire));
    }
    assert!(is_clean(&wire));
    before.none_since(&runtime);
}

#[test]
fn what_changes_of_an_interface_changes_in_the_guest_and_what_the_guest_has_made_stays() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::connected();
    let container = runtime.start(&joined(&wire));
    let shows = |what: &str, script: &str, expected: bool| {
        until(what, || (container.exec(&["sh", "-c", script]).code == 0) == expected);
    };
    ip(&wire, "address add 198.51.100.2/24 dev eth0");
    ip(&wire, "address add 2001:db8:1::2/64 dev eth0 nodad");
    ip(&wire, "route add 203.0.113.0/24 via 198.51.100.1 metric 77");
    ip(&wire, "neighbour add 198.51.100.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent");
    let route = "ip route | grep -q '203.0.113.0/24 via 198.51.100.1 dev eth0.*metric 77'";
    let neighbour = "ip neigh | grep -q '198.51.100.1 .*02:00:00:00:00:01'";
    let addresses = "ip address | grep -q 198.51.100.2/24 && ip address | grep -q 2001:db8:1::2/64";
    shows("addresses", addresses, true);
    shows("a route", route, true);
    shows("a neighbour", neighbour, true);
    ip(&wire, "neighbour delete 198.51.100.1 dev eth0");
    ip(&wire, "route delete 203.0.113.0/24");
    ip(&wire, "address delete 198.51.100.2/24 dev eth0");
    ip(&wire, "address delete 2001:db8:1::2/64 dev eth0");
    shows("no route", route, false);
    shows("no neighbour", neighbour, false);
    shows("no addresses", "ip address | grep -qE '198.51.100.2|2001:db8:1::2'", false);
    for mtu in [1400, 9000] {
        ip(&wire, &format!("link set eth0 mtu {mtu}"));
        shows("the MTU", &format!("test $(cat /sys/class/net/eth0/mtu) = {mtu}"), true);
    }
    ip(&wire, "link set eth0 mtu 1500 address 02:00:00:00:00:42");
    shows("the address", "grep -q 02:00:00:00:00:42 /sys/class/net/eth0/address", true);
    shows("the MTU", "test $(cat /sys/class/net/eth0/mtu) = 1500", true);
    is_connected(&container);
}

#[test]
fn who_follows_has_one_right_and_ends_with_the_monitor() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let wire = Wire::new();
    {
        let container = runtime.start(&joined(&wire));
        until("somebody follows", || followers(&container).len() == 1);
        let follower = followers(&container)[0];
        until("it has let go of its rights", || status(follower, "NoNewPrivs") == "1");
        // CAP_NET_ADMIN.
        for (set, expected) in
            [("CapEff", 1 << 12), ("CapPrm", 1 << 12), ("CapInh", 0), ("CapAmb", 0)]
        {
            assert_eq!(status(follower, set), format!("{expected:016x}"), "{set}");
        }
        wire.connect(None, "eth0", 1500);
        is_connected(&container);
        let own = status(follower, "RssAnon");
        println!("{own} of its own, {} with its program's", status(follower, "VmRSS"));
        let kib: u64 = own.trim_end_matches(" kB").parse().unwrap();
        assert!(kib <= MOST_KIB, "{own}");
        kill(Pid::from_raw(container.pid()), Signal::SIGKILL).unwrap();
        until("it has ended with the monitor", || followers(&container).is_empty());
        container.becomes("stopped");
        container.verb("delete").exits(0);
    }
    assert!(is_clean(&wire));
    before.none_since(&runtime);
}

#[test]
fn what_cannot_be_followed_is_said_and_followed_once_it_can_be() {
    let runtime = Runtime::cofferdam();
    let failed = || {
        let metrics = Exposition::parse(&runtime.verb(&["metrics"]).exits(0).stdout);
        metrics.value("cofferdam_network_changes_total", &[("outcome", "failed")])
    };
    let before = failed();
    let wire = Wire::new();
    let container = runtime.start(&joined(&wire));
    for name in ["net1", "net2", "net3"] {
        wire.plug(None, name, 1500);
        ip(&wire, &format!("link set {name} up"));
        if name != "net3" {
            until("it is there", || interfaces(&container).contains(name));
        }
    }
    let log = runtime.root().join(&container.id).join("monitor.log");
    let said = "The monitor does not take the interface net3: The monitor refused: \
                The machine has no room";
    until("it is said", || fs::read_to_string(&log).unwrap().contains(said));
    assert!(failed() > before);
    assert_eq!(interfaces(&container), "lo net1 net2");
    ip(&wire, "link delete net1");
    until("there is room", || interfaces(&container) == "lo net2 net3");
}

#[test]
fn a_namespace_whose_name_is_gone_at_the_start_is_the_containers_still() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let wire = Wire::connected();
    {
        let container = runtime.create(&joined(&wire));
        let deleted = Command::new("ip")
            .args(["netns", "delete", wire.path().file_name().unwrap().to_str().unwrap()])
            .status();
        assert!(deleted.unwrap().success());
        container.verb("start").exits(0);
        is_connected(&container);
    }
    before.none_since(&runtime);
    runtime.run(&joined(&wire)).exits(1).complains(&["Cannot open the network namespace"]);
    // What unmounting leaves of a name.
    fs::write(wire.path(), "").unwrap();
    runtime.run(&joined(&wire)).exits(1).complains(&["is no network namespace: it was deleted"]);
    fs::remove_file(wire.path()).unwrap();
    before.none_since(&runtime);
}
