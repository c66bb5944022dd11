//! Connections that somebody makes to the loopback interface of the pod's network namespace on the host,
//! into the guest: `kubectl port-forward` makes them there, and the programs listen on the guest's own.
//!
//! ```text
//!  who dials ── TCP ──▶ a listening socket, whatever the port ══ here ══ vsock ══▶ agent ── TCP ──▶ program
//! ```
//!
//! The sockets, and the program of the host's kernel that has the connections come to them, are made by the
//! runtime: nobody here can make any. The program goes with the last descriptor of its link, so with the monitor.
//!
//! Hostile: the guest, which sees and ends connections and makes none. Bound: [`MAX_FORWARDED`] at once; the
//! others wait in the sockets' queues until a place is free.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cofferdam_protocol::bounds::{FORWARD_PORT, MAX_FORWARDED};
use cofferdam_protocol::forward::Destination;
use cofferdam_virtio::poll::{Interest, Poller, Token};
use cofferdam_virtio::vsock::{ConnectError, ConnectionId, Endpoint, Vsock};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, getsockname};

use super::spare::Spare;

/// Connections taken in one go, before the thread's other work gets its turn.
const ACCEPTS_PER_TURN: usize = 16;

/// The way into the guest.
#[derive(Debug)]
pub struct Forwards {
    poller: Arc<Poller>,
    owner: u32,
    listeners: Vec<OwnedFd>,
    spare: Spare,
    /// Connections come here for as long as this is open.
    _link: OwnedFd,
    open: BTreeSet<ConnectionId>,
    listening: bool,
}

impl Forwards {
    /// Waits for connections.
    ///
    /// # Errors
    /// When a socket cannot be waited for.
    pub fn open(
        poller: Arc<Poller>,
        owner: u32,
        link: OwnedFd,
        listeners: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        let (spare, open) = (Spare::of(&link)?, BTreeSet::new());
        let mut forwards =
            Self { poller, owner, listeners, spare, _link: link, open, listening: false };
        forwards.listen()?;
        Ok(forwards)
    }

    /// Takes those who have connected, as far as there is room.
    pub fn take(&mut self, token: Token, vsock: &mut Vsock) {
        for _ in 0..ACCEPTS_PER_TURN {
            if self.open.len() >= MAX_FORWARDED {
                return self.rest();
            }
            let Some(listener) = self.listeners.get(token.index as usize) else { return };
            match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(connection) => self.carry(connection, vsock),
                // Whoever it was has gone.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE) => return self.spare.turn_away(listener),
                Err(_) => return,
            }
        }
    }

    fn carry(&mut self, connection: OwnedFd, vsock: &mut Vsock) {
        match connect(connection, vsock) {
            Ok(id) => drop(self.open.insert(id)),
            Err(error) => tracing::warn!(%error, "a forwarded connection was reset"),
        }
    }

    /// A connection of the guest's is over, whosever it was.
    pub fn closed(&mut self, id: ConnectionId) {
        if self.open.remove(&id) && !self.listening {
            // Registered before, so that it can be again; if the memory for it is lacking, the next one's
            // end is another chance.
            let _ = self.listen();
        }
    }

    fn listen(&mut self) -> io::Result<()> {
        for (index, listener) in self.listeners.iter().enumerate() {
            // There are two at most.
            let token = Token { owner: self.owner, index: index as u32 };
            match self.poller.add(listener, token, Interest::READ) {
                // The attempt before got as far as this.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                added => added?,
            }
        }
        self.listening = true;
        Ok(())
    }

    /// Waits for nobody until there is a place again.
    fn rest(&mut self) {
        for listener in &self.listeners {
            // Registered for as long as it listens.
            let _ = self.poller.remove(listener);
        }
        self.listening = false;
    }
}

impl Drop for Forwards {
    fn drop(&mut self) {
        self.rest();
    }
}

/// Why a connection is not carried.
#[derive(Debug, thiserror::Error)]
enum CarryError {
    /// Where it leads cannot be seen.
    #[error("It does not say where it leads")]
    Address(#[source] Errno),
    /// It leads elsewhere.
    #[error("It leads to {0:?}")]
    Elsewhere(Option<SocketAddr>),
    /// The guest.
    #[error("The guest cannot be connected to")]
    Connect(#[from] ConnectError),
}

/// Connects a connection with the agent. One that does not get there is reset when it is closed, as where
/// nobody listens: so are all that come from these sockets.
fn connect(connection: OwnedFd, vsock: &mut Vsock) -> Result<ConnectionId, CarryError> {
    let local = getsockname(&connection).map_err(CarryError::Address)?;
    let local = SocketAddr::try_from(local).ok();
    let destination = local.and_then(|address| Destination::try_from(address).ok());
    let header = destination.ok_or(CarryError::Elsewhere(local))?.to_bytes();
    Ok(vsock.connect(FORWARD_PORT, Endpoint::Tcp(connection), &header)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{ErrorKind, Read as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use cofferdam_virtio::fuzzing::Driver;
    use cofferdam_virtio::poll::Events;
    use cofferdam_virtio::vsock::{self, VsockEvent};
    use rustix::net::sockopt::set_socket_linger;

    use super::*;

    const VSOCK: u32 = 1;
    const FORWARDS: u32 = 2;

    /// A guest that answers nothing.
    struct Site {
        poller: Arc<Poller>,
        vsock: Vsock,
        _driver: Driver,
        forwards: Forwards,
        address: SocketAddr,
    }

    fn site(ip: Ipv4Addr) -> Site {
        let poller = Arc::new(Poller::open().unwrap());
        let (device, vsock) = vsock::open(Arc::clone(&poller), VSOCK).unwrap();
        let driver = Driver::start(Box::new(device), 3);
        let listener = TcpListener::bind((ip, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        set_socket_linger(&listener, Some(Duration::ZERO)).unwrap();
        let address = listener.local_addr().unwrap();
        let link = File::open("/dev/null").unwrap().into();
        let (same, listeners) = (Arc::clone(&poller), vec![listener.into()]);
        let forwards = Forwards::open(same, FORWARDS, link, listeners).unwrap();
        let mut site = Site { poller, vsock, _driver: driver, forwards, address };
        site.turn();
        site
    }

    impl Site {
        fn turn(&mut self) {
            let mut events = Events::new();
            while let ready @ [_, ..] = self.poller.wait(&mut events, Some(Duration::ZERO)).unwrap()
            {
                for (token, readiness) in ready {
                    match token.owner {
                        VSOCK => self.vsock.handle(*token, *readiness),
                        _ => self.forwards.take(*token, &mut self.vsock),
                    }
                }
                self.hear();
            }
        }

        fn hear(&mut self) {
            while let Some(event) = self.vsock.next_event() {
                if let VsockEvent::Refused(id) | VsockEvent::Closed(id) = event {
                    self.forwards.closed(id);
                }
            }
        }

        fn connect(&mut self) -> TcpStream {
            let client = TcpStream::connect(self.address).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            self.turn();
            client
        }
    }

    fn is_reset(mut client: TcpStream) -> bool {
        client.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    }

    #[test]
    fn so_many_are_carried_and_the_others_wait_for_a_place() {
        let mut site = site(Ipv4Addr::LOCALHOST);
        let mut clients: Vec<_> = (0..MAX_FORWARDED + 2).map(|_| site.connect()).collect();
        assert_eq!(site.forwards.open.len(), MAX_FORWARDED);
        let waiting = clients.split_off(MAX_FORWARDED);
        // The guest has not answered in time.
        site.vsock.expire(Instant::now() + Duration::from_secs(3600));
        site.hear();
        assert!(clients.into_iter().all(is_reset));
        site.turn();
        assert_eq!(site.forwards.open.len(), waiting.len());
    }

    #[test]
    fn what_leads_elsewhere_is_reset() {
        let mut elsewhere = site(Ipv4Addr::new(127, 0, 0, 2));
        let client = elsewhere.connect();
        assert!(is_reset(client));
        assert!(elsewhere.forwards.open.is_empty() && elsewhere.forwards.listening);
    }

    #[test]
    fn without_a_guest_a_connection_is_reset() {
        let mut site = site(Ipv4Addr::LOCALHOST);
        let (_device, without) = vsock::open(Arc::clone(&site.poller), VSOCK).unwrap();
        site.vsock = without;
        let client = site.connect();
        assert!(is_reset(client));
        assert!(site.forwards.open.is_empty());
    }
}
