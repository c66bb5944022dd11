//! What engines do to forward a port to a pod: they enter its network namespace on the host, and connect to
//! 127.0.0.1 there, or else to `::1`. Whatever the isolation, a program of the pod answers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use cofferdam_e2e::{Bundle, Runtime, Wire, inside_network, until};
use serde_json::json;

/// A connection crosses a guest in the lab.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than all buffers on the way hold together, and not a multiple of anything.
const MUCH: usize = (4 << 20) + 4321;
/// More than are carried into a guest at once.
const MANY: usize = 80;

const ECHO: u16 = 7001;
const PAGE: u16 = 7002;
const NOBODY: u16 = 7003;
/// What the probe answers: nginx's welcome page has so many bytes.
const PAGE_BYTES: usize = 612;

/// A pod in the wire's namespace, with a program that echoes and one that is a web server for `::1` only.
fn pod(wire: &Wire) -> Bundle {
    wire.inside(&["link", "set", "lo", "up"]);
    let script =
        format!("nc -ll -p {ECHO} -e cat & /probe --traffic [::1]:{PAGE} & exec sleep 1000");
    Bundle::probe(&[]).edit(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["annotations"] = json!({ "io.kubernetes.cri.container-type": "sandbox" });
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        let network = namespaces.iter_mut().find(|entry| entry["type"] == "network").unwrap();
        network["path"] = json!(wire.path());
    })
}

fn connect(wire: &Wire, address: impl Into<SocketAddr>) -> io::Result<TcpStream> {
    let address = address.into();
    let stream = inside_network(&wire.path(), || TcpStream::connect(address))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// As containerd does it.
fn forward(wire: &Wire, port: u16) -> io::Result<TcpStream> {
    connect(wire, (Ipv4Addr::LOCALHOST, port))
        .or_else(|_| connect(wire, (Ipv6Addr::LOCALHOST, port)))
}

/// Sends everything, then the end, and reads what comes back up to the end.
fn echoed(mut stream: TcpStream, content: &[u8]) -> io::Result<Vec<u8>> {
    let mut sender = stream.try_clone()?;
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            sender.write_all(content)?;
            sender.shutdown(Shutdown::Write)
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back)?;
        writer.join().unwrap()?;
        Ok(back)
    })
}

fn ask_for_page(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")
}

fn page(stream: &mut TcpStream) -> io::Result<String> {
    let mut answer = Vec::new();
    let end = |answer: &[u8]| answer.windows(4).position(|four| four == b"\r\n\r\n");
    while end(&answer).is_none_or(|end| answer.len() < end + 4 + PAGE_BYTES) {
        let mut some = [0; 1024];
        match stream.read(&mut some)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&some[..read]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn a_pods_programs_answer_on_the_loopback_interface_of_its_namespace() {
    let wire = Wire::connected();
    let runtime = Runtime::cofferdam();
    let _pod = runtime.start(&pod(&wire));
    let answers = |port| {
        forward(&wire, port).and_then(|mut stream| {
            ask_for_page(&mut stream)?;
            page(&mut stream)
        })
    };
    until("the web server is up", || answers(PAGE).is_ok());
    let small = || forward(&wire, ECHO).and_then(|stream| echoed(stream, b"small"));
    until("the echo is up", || small().is_ok_and(|back| back == b"small"));

    let content: Vec<u8> = (0..MUCH).map(|index| (index * 31 % 251) as u8).collect();
    for address in
        [(Ipv4Addr::LOCALHOST, ECHO).into(), SocketAddr::from((Ipv6Addr::LOCALHOST, ECHO))]
    {
        let back = echoed(connect(&wire, address).unwrap(), &content).unwrap();
        assert!(back == content, "{address}: {} bytes", back.len());
    }

    let mut all: Vec<_> = (0..MANY).map(|_| forward(&wire, PAGE).unwrap()).collect();
    all.iter_mut().for_each(|stream| ask_for_page(stream).unwrap());
    for mut stream in all {
        assert!(page(&mut stream).unwrap().starts_with("HTTP/1.1 200 OK"));
    }

    // With a machine in between it is only known when somebody has connected.
    let refused = forward(&wire, NOBODY).and_then(|mut stream| stream.read(&mut [0]));
    let refused = refused.unwrap_err().kind();
    assert!([ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset].contains(&refused));
    assert!(answers(PAGE).is_ok());
}
