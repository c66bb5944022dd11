//! Connections to the loopback interface of the pod's network namespace on the host, which
//! `kubectl port-forward` ends in: carried to the guest's, where the pod's programs listen.
//!
//! Two sockets listen in that namespace, one for each version of IP, and a program has the kernel give them
//! the connections to any port ([`crate::plan::forward_program`]). Both are the monitor's from then on, and
//! nobody else's: they go with it, and nothing of them needs to be undone.
//!
//! What this is not: it is never in a namespace that is the host's own, and carries nothing.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use cofferdam_protocol::bounds::FORWARD_BUFFER_BYTES;
use rustix::net::sockopt::{
    set_socket_linger, set_socket_recv_buffer_size, set_socket_send_buffer_size, set_tcp_nodelay,
};

use crate::host::network_namespace::{self, NetworkNamespace};
use crate::host::process::ProcessIdentity;
use crate::host::socket_lookup::{LookupProgram, SocketMap};
use crate::plan::forward_program::{self, Taken, TooManyTaken};
use crate::sandbox::microvm::agent::REQUEST_TIMEOUT;
use crate::sandbox::microvm::control::{self, ControlError};

/// Of the namespace that the calling thread is in.
const TCP: &str = "/proc/thread-self/net/tcp";
const TCP6: &str = "/proc/thread-self/net/tcp6";
/// Seven thousand sockets, far more than may listen.
const MAX_TABLE_BYTES: u64 = 1 << 20;
/// One for each version of IP.
const SOCKETS: u32 = 2;

/// Why connections are not carried into the guest.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum ForwardError {
    /// The namespace.
    #[error("Cannot enter the pod's network namespace")]
    Enter(#[source] io::Error),
    /// It is not the pod's.
    #[error("The network namespace is the host's own")]
    Hosts,
    /// Who listens there.
    #[error("Cannot see who listens in the pod's network namespace")]
    Read(#[source] io::Error),
    /// Too many do.
    #[error("Others listen in the pod's network namespace")]
    Taken(#[source] TooManyTaken),
    /// The sockets.
    #[error("Cannot listen at 127.0.0.1 in the pod's network namespace")]
    Listen(#[source] io::Error),
    /// The program.
    #[error("The host's kernel takes no program that looks sockets up (SK_LOOKUP, Linux 5.9)")]
    Program(#[source] io::Error),
    /// The monitor.
    #[error("The monitor does not carry connections")]
    Monitor(#[source] ControlError),
}

/// Has connections to the loopback interface of a monitor's namespace carried into its guest.
pub(in super::super) fn forward(
    state_folder: &Path,
    monitor: ProcessIdentity,
) -> Result<(), ForwardError> {
    let namespace = pods_own(monitor)?;
    let steering = namespace.inside(open).map_err(ForwardError::Enter)??;
    let link = steering.program.attach(&namespace).map_err(ForwardError::Program)?;
    let mut descriptors = vec![link.as_fd()];
    descriptors.extend(steering.listeners.iter().map(OwnedFd::as_fd));
    control::forward(state_folder, &descriptors, REQUEST_TIMEOUT).map_err(ForwardError::Monitor)
}

fn pods_own(monitor: ProcessIdentity) -> Result<NetworkNamespace, ForwardError> {
    if network_namespace::is_hosts(Path::new(&format!("/proc/{}/ns/net", monitor.pid))) {
        return Err(ForwardError::Hosts);
    }
    NetworkNamespace::of_process(monitor.pid).map_err(ForwardError::Enter)
}

/// What is to be given connections, and what gives them.
struct Steering {
    program: LookupProgram,
    listeners: Vec<OwnedFd>,
}

/// In the namespace that the caller is in.
fn open() -> Result<Steering, ForwardError> {
    // Before there are sockets of our own.
    let taken = taken()?;
    let v4 = listen((Ipv4Addr::LOCALHOST, 0).into()).map_err(ForwardError::Listen)?;
    // A namespace may have no IPv6.
    let v6 = listen((Ipv6Addr::LOCALHOST, 0).into()).ok();
    let listeners: Vec<_> = std::iter::once(v4).chain(v6).collect();
    let map = SocketMap::create(SOCKETS).map_err(ForwardError::Program)?;
    for (place, listener) in (0..).zip(&listeners) {
        map.put(place, listener.as_fd()).map_err(ForwardError::Program)?;
    }
    let program = map.load(|map| forward_program::generate(map, &taken));
    Ok(Steering { program: program.map_err(ForwardError::Program)?, listeners })
}

fn taken() -> Result<Taken, ForwardError> {
    let tcp = read(TCP).map_err(ForwardError::Read)?;
    let tcp6 = match read(TCP6) {
        // There is no IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.map_err(ForwardError::Read)?,
    };
    Taken::read(&tcp, &tcp6).map_err(ForwardError::Taken)
}

fn read(table: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(table)?.take(MAX_TABLE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// A socket on any free port. What it is set to, the connections that come from it are too.
fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    // Closed without an end before, they are reset: as where nobody listens.
    set_socket_linger(&listener, Some(Duration::ZERO))?;
    // What the guest sends in pieces goes on in pieces.
    set_tcp_nodelay(&listener, true)?;
    set_socket_recv_buffer_size(&listener, FORWARD_BUFFER_BYTES)?;
    set_socket_send_buffer_size(&listener, FORWARD_BUFFER_BYTES)?;
    Ok(listener.into())
}

/// Whether the host's kernel takes such a program.
pub(in super::super) fn is_possible() -> io::Result<()> {
    let map = SocketMap::create(SOCKETS)?;
    map.load(|map| forward_program::generate(map, &Taken::default())).map(|_| ())
}
