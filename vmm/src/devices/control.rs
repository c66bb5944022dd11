//! The control socket: who may connect, how many, and for how long without saying anything.
//!
//! ```text
//!  accept ──▶ Request ──ConnectAgent──▶ handed over to vsock (terminal)
//!                │ ├────Statistics────▶ answered, closed (terminal)
//!                │ ├────Attach────────▶ Attached ⇄ Draining
//!                │ └────Checkpoint────▶ Saving ──Resume──▶ answered, closed (terminal)
//!                └── no frame in time ──▶ closed (terminal)
//! ```

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_protocol::control::ControlResponse;
use cofferdam_protocol::id::ProcessToken;
use cofferdam_virtio::poll::{Interest, Poller, Token};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::client::{Client, Received};
use super::spare::Spare;

/// A process in a sandbox that someone waits for holds one connection; without a bound a client
/// that connects again and again would take every descriptor from the guest's streams.
const MAX_CLIENTS: usize = 1024;
/// How long a client may take for its request: it has it ready when it connects.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// Connections taken in one go, so that the guest gets its turn.
const ACCEPTS_PER_TURN: usize = 16;
/// The index of the listening socket among the tokens; the clients' come after it.
const LISTENER: u32 = 0;

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its request is awaited until then.
    Request(Instant),
    /// It attached this process's streams.
    Attached(ProcessToken),
    /// It waits until this process's output is written.
    Draining(ProcessToken),
    /// It has the machine saved, and says when that goes on.
    Saving,
}

#[derive(Debug)]
struct Connection {
    client: Client,
    phase: Phase,
}

/// A number for each client; never used twice.
pub type ClientId = u32;

/// The listening socket and everyone connected to it.
pub struct Control {
    poller: Arc<Poller>,
    owner: u32,
    listener: OwnedFd,
    spare: Spare,
    clients: BTreeMap<ClientId, Connection>,
    last_id: ClientId,
    uid: u32,
}

impl Control {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the socket cannot be polled.
    pub fn open(poller: Arc<Poller>, owner: u32, listener: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        poller.add(&listener, Token { owner, index: LISTENER }, Interest::READ)?;
        let uid = rustix::process::geteuid().as_raw();
        let (clients, spare) = (BTreeMap::new(), Spare::of(&listener)?);
        Ok(Self { poller, owner, listener, spare, clients, last_id: LISTENER, uid })
    }

    /// Something is ready: takes new clients in, or reads what a client sent. What came of it is
    /// a frame of a client that is still there.
    pub fn handle(&mut self, token: Token) -> Option<(ClientId, Phase, Received)> {
        if token.index == LISTENER {
            self.accept();
            return None;
        }
        let connection = self.clients.get_mut(&token.index)?;
        match connection.client.receive() {
            Ok(received) => received.map(|received| (token.index, connection.phase, received)),
            // Whoever breaks the protocol or goes away is gone; a client tells its own user.
            Err(_) => {
                self.close(token.index);
                None
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) if self.clients.len() < MAX_CLIENTS && self.may_connect(&socket) => {
                    self.insert(socket);
                }
                Ok(_) | Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE) => return self.spare.turn_away(&self.listener),
                Err(_) => return,
            }
        }
    }

    /// The monitor's own user, or the root of its user namespace.
    fn may_connect(&self, socket: &OwnedFd) -> bool {
        getsockopt(socket, PeerCredentials).is_ok_and(|peer| [0, self.uid].contains(&peer.uid()))
    }

    fn insert(&mut self, socket: OwnedFd) {
        let Some(id) = self.last_id.checked_add(1) else { return };
        self.last_id = id;
        let client = Client::new(socket);
        if self.poller.add(client.as_fd(), self.token(id), Interest::READ).is_ok() {
            let phase = Phase::Request(Instant::now() + REQUEST_TIME);
            self.clients.insert(id, Connection { client, phase });
        }
    }

    fn token(&self, id: ClientId) -> Token {
        Token { owner: self.owner, index: id }
    }

    /// Answers a client; one that does not take its answer is gone.
    pub fn answer(&mut self, id: ClientId, response: &ControlResponse) {
        let answered = self.clients.get(&id).map(|connection| connection.client.answer(response));
        if matches!(answered, Some(Err(_))) {
            self.close(id);
        }
    }

    /// Answers a client for the last time.
    pub fn dismiss(&mut self, id: ClientId, response: &ControlResponse) {
        self.answer(id, response);
        self.close(id);
    }

    /// The client is in another phase now.
    pub fn set_phase(&mut self, id: ClientId, phase: Phase) {
        if let Some(connection) = self.clients.get_mut(&id) {
            connection.phase = phase;
        }
    }

    /// Those who wait until a process's output is written.
    pub fn draining(&self) -> Vec<(ClientId, ProcessToken)> {
        let draining = |(id, connection): (&ClientId, &Connection)| match connection.phase {
            Phase::Draining(process) => Some((*id, process)),
            Phase::Request(_) | Phase::Attached(_) | Phase::Saving => None,
        };
        self.clients.iter().filter_map(draining).collect()
    }

    /// Whether a client is still there.
    pub fn has(&self, id: ClientId) -> bool {
        self.clients.contains_key(&id)
    }

    /// Gives a client's socket away.
    pub fn release(&mut self, id: ClientId) -> Option<OwnedFd> {
        let connection = self.clients.remove(&id)?;
        self.poller.remove(connection.client.as_fd()).ok()?;
        Some(connection.client.into_socket())
    }

    fn close(&mut self, id: ClientId) {
        self.release(id);
    }

    /// When the next client has been silent for too long.
    pub fn deadline(&self) -> Option<Instant> {
        self.clients.values().filter_map(|connection| connection.phase.deadline()).min()
    }

    /// Closes those who have been silent for too long.
    pub fn expire(&mut self, now: Instant) {
        let late =
            |connection: &Connection| connection.phase.deadline().is_some_and(|at| at <= now);
        let ids: Vec<_> =
            self.clients.iter().filter(|(_, client)| late(client)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.close(id));
    }
}

impl Phase {
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::Request(deadline) => Some(deadline),
            Self::Attached(_) | Self::Draining(_) | Self::Saving => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};

    use cofferdam_protocol::bounds::MAX_CONTROL_BYTES;
    use cofferdam_protocol::control::ControlRequest;
    use cofferdam_protocol::frame;
    use cofferdam_virtio::poll::Events;

    use super::*;

    struct Fixture {
        _folder: tempfile::TempDir,
        path: std::path::PathBuf,
        poller: Arc<Poller>,
        control: Control,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("control.sock");
            let listener = UnixListener::bind(&path).unwrap();
            let poller = Arc::new(Poller::open().unwrap());
            let control = Control::open(poller.clone(), 7, listener.into()).unwrap();
            Self { _folder: folder, path, poller, control }
        }

        fn turn(&mut self) -> Vec<(ClientId, Phase, Received)> {
            let mut events = Events::new();
            let ready = self.poller.wait(&mut events, Some(Duration::ZERO)).unwrap().to_vec();
            ready.into_iter().filter_map(|(token, _)| self.control.handle(token)).collect()
        }
    }

    #[test]
    fn a_request_reaches_the_loop_and_its_answer_the_client() {
        let mut fixture = Fixture::new();
        let mut client = UnixStream::connect(&fixture.path).unwrap();
        frame::write_frame(&client, &ControlRequest::Statistics, MAX_CONTROL_BYTES).unwrap();
        assert!(fixture.turn().is_empty());
        let (id, phase, received) = fixture.turn().remove(0);
        assert!(matches!(phase, Phase::Request(_)));
        assert_eq!(received.body, br#""statistics""#);
        fixture.control.dismiss(id, &ControlResponse::Done);
        let answer: ControlResponse = frame::read_frame(&mut client, MAX_CONTROL_BYTES).unwrap();
        assert_eq!(answer, ControlResponse::Done);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_silent_client_is_closed_in_time() {
        let mut fixture = Fixture::new();
        let mut client = UnixStream::connect(&fixture.path).unwrap();
        client.write_all(&[9]).unwrap();
        fixture.turn();
        let deadline = fixture.control.deadline().unwrap();
        fixture.control.expire(deadline - Duration::from_millis(1));
        assert!(fixture.control.deadline().is_some());
        fixture.control.expire(deadline);
        assert!(fixture.control.deadline().is_none());
    }

    #[test]
    fn a_client_that_went_away_leaves_nothing() {
        let mut fixture = Fixture::new();
        drop(UnixStream::connect(&fixture.path).unwrap());
        fixture.turn();
        fixture.turn();
        assert!(fixture.control.clients.is_empty());
    }
}
