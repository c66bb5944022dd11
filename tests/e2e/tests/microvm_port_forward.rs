//! Forwarding ports into a microVM takes nothing from others in the pod's network namespace on the host, and ends
//! with the monitor.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use cofferdam_e2e::{Bundle, Leftovers, Runtime, Wire, inside_network, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// A connection crosses a guest in the lab.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where Docker's name server is.
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 7001;
const TAKEN: u16 = 7002;

/// A pod, or a container, in the wire's namespace, that echoes on both ports.
fn echoing(wire: &Wire, kind: &str) -> Bundle {
    let script = format!("nc -ll -p {PORT} -e cat & nc -ll -p {TAKEN} -e cat & exec sleep 1000");
    Bundle::script(&script).edit(|config| {
        config["annotations"] = json!({ kind: "sandbox" });
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        let network = namespaces.iter_mut().find(|entry| entry["type"] == "network").unwrap();
        network["path"] = json!(wire.path());
    })
}

fn connect(wire: &Wire, address: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    let stream = inside_network(&wire.path(), || TcpStream::connect((address, port)))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Somebody of the host's who listens in the namespace and says who it is.
fn listens(wire: &Wire, address: Ipv4Addr, port: u16) {
    let listener = inside_network(&wire.path(), || TcpListener::bind((address, port))).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            stream.write_all(b"host").unwrap();
        }
    });
}

/// What comes back for four bytes.
fn answer(mut stream: &TcpStream) -> io::Result<String> {
    stream.write_all(b"pods")?;
    let mut back = [0; 4];
    stream.read_exact(&mut back)?;
    Ok(String::from_utf8_lossy(&back).into_owned())
}

#[test]
fn others_in_the_namespace_keep_their_ports_and_all_ends_with_the_monitor() {
    let wire = Wire::connected();
    wire.inside(&["link", "set", "lo", "up"]);
    listens(&wire, Ipv4Addr::LOCALHOST, TAKEN);
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    let pod = runtime.start(&echoing(&wire, "io.kubernetes.cri.container-type"));
    listens(&wire, NAME_SERVER, PORT);

    let ask = |address, port| connect(&wire, address, port).and_then(|stream| answer(&stream));
    until("the pod answers", || ask(Ipv4Addr::LOCALHOST, PORT).is_ok_and(|back| back == "pods"));
    assert_eq!(ask(Ipv4Addr::LOCALHOST, TAKEN).unwrap(), "host");
    assert_eq!(ask(NAME_SERVER, PORT).unwrap(), "host");

    let open = connect(&wire, Ipv4Addr::LOCALHOST, PORT).unwrap();
    assert_eq!(answer(&open).unwrap(), "pods");
    kill(Pid::from_raw(pod.pid()), Signal::SIGKILL).unwrap();
    pod.becomes("stopped");
    assert_eq!(answer(&open).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let after = connect(&wire, Ipv4Addr::LOCALHOST, PORT).unwrap_err().kind();
    assert_eq!(after, ErrorKind::ConnectionRefused);
    drop(pod);
    before.none_since(&runtime);

    // No pod: nobody forwards a port to it, and nothing listens for that.
    let container = runtime.start(&echoing(&wire, "nobodys.annotation"));
    container.exec(&["true"]).exits(0);
    let refused = connect(&wire, Ipv4Addr::LOCALHOST, PORT).unwrap_err().kind();
    assert_eq!(refused, ErrorKind::ConnectionRefused);
}
