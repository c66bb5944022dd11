//! A microVM on a network that somebody else made: what a container in that network namespace would
//! have, the guest has.

// A fixture is part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_e2e::{
    Bundle, Container, HOST, HOST6, INSIDE, INSIDE6, Leftovers, Runtime, Wire, until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// A packet crosses a bridge and a guest in the lab.
const PATIENCE: Duration = Duration::from_secs(20);

/// More than all queues on the way hold together, and not a multiple of anything.
const MUCH: usize = (4 << 20) + 4321;

fn waiting() -> Bundle {
    Bundle::busybox(&["sleep", "1000"]).edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] =
                json!(["CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_KILL"]);
        }
    })
}

/// A container in the wire's namespace that waits.
fn joined(wire: &Wire) -> Bundle {
    joining(&wire.path().display().to_string(), waiting())
}

fn joining(path: &str, bundle: Bundle) -> Bundle {
    bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        let network = namespaces.iter_mut().find(|entry| entry["type"] == "network").unwrap();
        network["path"] = json!(path);
    })
}

fn inside(container: &Container<'_>, script: &str) -> String {
    let outcome = container.exec(&["sh", "-c", script]);
    assert_eq!(outcome.code, 0, "{script}: {}{}", outcome.stdout, outcome.stderr);
    outcome.stdout
}

/// Connects until somebody listens.
fn connect(address: &str) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(error) if Instant::now() > end => panic!("{address}: {error}"),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[test]
fn a_joined_namespace_is_the_guests_network() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let wire = Wire::connected();
    let outside = wire.inside(&["-o", "link", "show", "eth0"]);
    {
        let container = runtime.start(&joined(&wire));
        let mac = outside.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
        let link = inside(&container, "ip link show eth0");
        assert!(link.contains(mac) && link.contains("mtu 1500") && link.contains("UP"), "{link}");
        let addresses = inside(&container, "ip address show eth0");
        for address in [INSIDE, INSIDE6, "fe80::"] {
            assert!(addresses.contains(address), "{address}: {addresses}");
        }
        assert!(inside(&container, "ip route").contains(&format!("default via {HOST} dev eth0")));
        assert!(
            inside(&container, "ip -6 route").contains(&format!("default via {HOST6} dev eth0"))
        );
        assert!(inside(&container, "ip address show lo").contains("127.0.0.1"));
        inside(&container, &format!("ping -c 2 -W 10 {HOST} && ping -6 -c 2 -W 10 {HOST6}"));
    }
    nothing_left(&wire);
    before.none_since(&runtime);
}

/// With one space between words.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// No tap, and nothing on the engine's interfaces.
#[track_caller]
fn nothing_left(wire: &Wire) {
    let links = wire.inside(&["-o", "link"]);
    assert!(!links.contains("cofferdam"), "{links}");
    let disciplines = wire.traffic_control(&["qdisc", "show"]);
    assert!(!disciplines.contains("ingress"), "{disciplines}");
}

fn much() -> Vec<u8> {
    (0..MUCH).map(|index| (index * 31 % 251) as u8).collect()
}

/// Sends everything to an echo, and reads what comes back.
fn echoed(address: &str, content: &[u8]) -> Vec<u8> {
    let mut stream = connect(address);
    let mut sender = stream.try_clone().unwrap();
    let content = content.to_vec();
    let writer = thread::spawn(move || {
        sender.write_all(&content).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    back
}

#[test]
fn connections_come_in_and_carry_much() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::connected();
    let container = runtime.start(&joined(&wire));
    inside(&container, "nc -ll -p 7 -e cat > /dev/null 2>&1 < /dev/null &");
    let content = much();
    assert!(echoed(&format!("{INSIDE}:7"), &content) == content);
    assert!(echoed(&format!("[{INSIDE6}]:7"), &content) == content);
}

#[test]
fn connections_go_out_and_carry_much() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::connected();
    let container = runtime.start(&joined(&wire));
    for (host, address) in [(HOST, format!("{HOST}:8080")), (HOST6, format!("[{HOST6}]:8080"))] {
        let listener = TcpListener::bind(&address).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&much()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
        });
        let sum = inside(&container, &format!("nc {host} 8080 < /dev/null | sha256sum"));
        server.join().unwrap();
        let expected = sha256(&much());
        assert_eq!(sum.split(' ').next().unwrap(), expected, "{host}");
    }
}

fn sha256(content: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), content).unwrap();
    let output = std::process::Command::new("sha256sum").arg(file.path()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn packets_larger_than_the_link_are_cut_and_put_together() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::connected();
    let container = runtime.start(&joined(&wire));
    inside(
        &container,
        &format!("ping -c 2 -s 20000 -W 10 {HOST} && ping -6 -c 2 -s 20000 -W 10 {HOST6}"),
    );
}

#[test]
fn the_largest_datagram_comes_whole_and_goes_back() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::connected();
    let server = Bundle::probe(&[])
        .edit(|config| config["process"]["args"] = json!(["/probe", "--echo-datagrams", "[::]:7"]));
    let _container = runtime.start(&joining(&wire.path().display().to_string(), server));
    for (own, address) in [
        (format!("{HOST}:0"), format!("{INSIDE}:7")),
        (format!("[{HOST6}]:0"), format!("[{INSIDE6}]:7")),
    ] {
        let socket = UdpSocket::bind(own).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let content = &much()[..65_000];
        let mut back = vec![0; 70_000];
        let end = Instant::now() + PATIENCE;
        // It may not listen yet.
        let length = loop {
            socket.send_to(content, &address).unwrap();
            match socket.recv(&mut back) {
                Ok(length) => break length,
                Err(error) => assert!(Instant::now() < end, "{address}: {error}"),
            }
        };
        assert!(back[..length] == *content, "{address}: {length} bytes");
    }
}

#[test]
fn who_is_in_a_multicast_group_hears_what_is_sent_to_it() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::connected();
    let group = "239.1.1.1:7";
    let server = Bundle::probe(&[])
        .edit(|config| config["process"]["args"] = json!(["/probe", "--echo-datagrams", group]));
    let _container = runtime.start(&joining(&wire.path().display().to_string(), server));
    let socket = UdpSocket::bind((HOST, 0)).unwrap();
    rustix::net::sockopt::set_ip_multicast_if(&socket, &HOST.parse().unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut back = [0; 16];
    until("the group answers", || {
        socket.send_to(b"to whom it concerns", group).unwrap();
        socket.recv_from(&mut back).is_ok_and(|(_, from)| from.ip().to_string() == INSIDE)
    });
}

#[test]
fn a_switch_that_turns_ipv6_off_in_the_container_holds_for_an_interface_that_comes_later() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::new();
    let bundle = waiting().edit(|config| {
        config["linux"]["sysctl"] = json!({ "net.ipv6.conf.all.disable_ipv6": "1" });
    });
    let container = runtime.create(&bundle);
    wire.connect(Some(container.pid()), "eth0", 1500);
    container.verb("start").exits(0);
    let addresses = inside(&container, "ip address show eth0");
    assert!(addresses.contains(INSIDE) && !addresses.contains("inet6"), "{addresses}");
    inside(&container, &format!("ping -c 2 -W 10 {HOST}"));
}

#[test]
fn a_long_link_is_as_long_in_the_guest() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::new();
    wire.connect(None, "eth0", 9000);
    let container = runtime.start(&joined(&wire));
    assert_eq!(inside(&container, "cat /sys/class/net/eth0/mtu"), "9000\n");
    inside(&container, &format!("ping -c 2 -s 8900 -W 10 {HOST}"));
}

#[test]
fn without_a_path_there_is_only_the_loopback_interface() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&waiting());
    assert_eq!(inside(&container, "ls /sys/class/net"), "lo\n");
    inside(&container, "ping -c 1 127.0.0.1 && ping -6 -c 1 ::1");
}

#[test]
fn an_interface_that_comes_between_create_and_start_is_there() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::new();
    let container = runtime.create(&waiting());
    wire.connect(Some(container.pid()), "eth0", 1500);
    container.verb("start").exits(0);
    inside(&container, &format!("ping -c 2 -W 10 {HOST}"));
}

#[test]
fn an_interface_that_a_hook_puts_into_the_namespace_is_there_under_its_name() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::new();
    let end = wire.plug(None, "net7", 1400);
    let script = format!(
        "pid=$(sed -n 's/.*\"pid\":\\([0-9]*\\).*/\\1/p') && ip link set {end} netns $pid && \
         nsenter --net=/proc/$pid/ns/net ip link set {end} name net7 address 02:00:00:00:00:07 up"
    );
    let bundle = waiting().edit(|config| {
        config["hooks"]["createRuntime"] = json!([{
            "path": "/bin/sh", "args": ["sh", "-c", script],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        }]);
    });
    let container = runtime.start(&bundle);
    let link = inside(&container, "ip link show net7");
    assert!(link.contains("02:00:00:00:00:07") && link.contains("mtu 1400"), "{link}");
}

#[test]
fn several_interfaces_keep_their_names_and_routes() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::connected();
    wire.plug(None, "net1", 1500);
    for args in [
        "link set net1 up",
        "address add 198.51.100.2/32 dev net1",
        "route add 198.51.100.1 dev net1 scope link",
        "route add 203.0.113.0/24 via 198.51.100.1 dev net1 metric 77",
        "route add 203.0.113.128/25 via 198.18.0.1 dev net1 onlink",
        "neighbour add 198.51.100.1 lladdr 02:00:00:00:00:01 dev net1 nud permanent",
    ] {
        wire.inside(&args.split(' ').collect::<Vec<_>>());
    }
    let container = runtime.start(&joined(&wire));
    let routes = words(&inside(&container, "ip route show dev net1"));
    for route in [
        "198.51.100.1 dev net1 scope link",
        "203.0.113.0/24 via 198.51.100.1 dev net1 metric 77",
        "203.0.113.128/25 via 198.18.0.1 dev net1 onlink",
    ] {
        assert!(routes.contains(route), "{route}: {routes}");
    }
    let neighbours = words(&inside(&container, "ip neigh show dev net1"));
    let expected = "198.51.100.1 lladdr 02:00:00:00:00:01";
    assert!(neighbours.contains(expected), "{neighbours}");
    assert!(inside(&container, "ip route").contains(&format!("default via {HOST} dev eth0")));
}

#[test]
fn a_device_of_the_host_moves_in_with_its_addresses_and_under_its_name() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::new();
    let device = wire.device("nd0");
    let bundle = waiting().edit(|config| {
        config["linux"]["netDevices"] = json!({ device.as_str(): { "name": "eth5" } });
    });
    let container = runtime.start(&bundle);
    let addresses = inside(&container, "ip address show eth5");
    assert!(addresses.contains(INSIDE) && addresses.contains(INSIDE6), "{addresses}");
    inside(&container, &format!("ping -c 2 -W 10 {HOST}"));
    assert!(!fs::exists(format!("/sys/class/net/{device}")).unwrap());
    let again = runtime.run(&bundle);
    again.exits(1).complains(&["linux.netDevices: there is no interface", &device]);
}

#[test]
fn a_monitor_that_was_killed_leaves_nothing_in_the_namespace() {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let wire = Wire::connected();
    {
        let container = runtime.start(&joined(&wire));
        assert!(wire.traffic_control(&["qdisc", "show"]).contains("ingress"));
        kill(Pid::from_raw(container.pid()), Signal::SIGKILL).unwrap();
        container.becomes("stopped");
        container.verb("delete").exits(0);
    }
    nothing_left(&wire);
    before.none_since(&runtime);
}

#[test]
fn a_namespace_is_one_microvms_at_a_time() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::connected();
    let first = runtime.start(&joined(&wire));
    let before = Leftovers::before(&runtime);
    let second = runtime.run(&joined(&wire));
    second.exits(1).complains(&[
        "network namespace is that of another microVM",
        &first.id,
        "joined_network",
    ]);
    before.none_since(&runtime);
    inside(&first, &format!("ping -c 2 -W 10 {HOST}"));
}

#[test]
fn the_hosts_own_network_is_refused_by_name() {
    let runtime = Runtime::cofferdam();
    for path in ["/proc/1/ns/net", "/proc/self/ns/net"] {
        let refused = runtime.run(&joining(path, waiting()));
        refused.exits(1).complains(&["the host's network cannot be had in a microVM"]);
    }
    let missing = runtime.run(&joining("/run/netns/there-is-none", waiting()));
    missing.exits(1).complains(&["Cannot open the network namespace /run/netns/there-is-none"]);
    let other = runtime.run(&joining("/proc/self/ns/uts", waiting()));
    other.exits(1).complains(&["/proc/self/ns/uts is no network namespace"]);
}

#[test]
fn a_microvm_with_interfaces_is_not_saved() {
    let runtime = Runtime::cofferdam();
    let wire = Wire::connected();
    let container = runtime.start(&joined(&wire));
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image").display().to_string();
    let refused = runtime.verb(&["checkpoint", "--image-path", &image, &container.id]);
    refused.exits(1).complains(&["A microVM with network interfaces cannot be saved"]);
    inside(&container, &format!("ping -c 1 -W 10 {HOST}"));
}
