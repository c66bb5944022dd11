//! The guest's questions for names, to the name server of the container's network namespace on the
//! host: where an engine has one on the loopback interface there, the guest's own does not lead to
//! it.
//!
//! ```text
//!  agent ══ vsock ══ a pair of sockets ══ here ══ a socket, connected to the server
//!          messages behind their lengths            one datagram for each
//! ```
//!
//! The sockets are made by the runtime: nobody here can make any, or connect one elsewhere.
//!
//! Hostile: what comes from the guest; it may ask what it likes of that one server, as a container
//! without a microVM may. Bounds: a message's length, and what is read in one go. What does not fit
//! anywhere is lost, as datagrams are.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cofferdam_protocol::bounds::MAX_NAME_MESSAGE_BYTES;
use cofferdam_protocol::names::{Incoming, framed};
use cofferdam_virtio::poll::{Interest, Poller, Token};
use rustix::net::{RecvFlags, SendFlags};

const GUEST: u32 = 0;
const SERVER: u32 = 1;
/// Reads in one go, before the thread's other work gets its turn.
const MAX_READS_IN_ONE_GO: usize = 16;

/// The way to the name server.
#[derive(Debug)]
pub struct Names {
    poller: Arc<Poller>,
    guest: OwnedFd,
    server: OwnedFd,
    questions: Incoming,
    /// The rest of an answer that the guest's stream had no room for.
    rest: Vec<u8>,
}

/// Whether anybody asks any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It stays.
    Open,
    /// The guest hung up, or is not to be understood.
    Over,
}

impl Names {
    /// Waits for questions, and for answers.
    ///
    /// # Errors
    /// When a descriptor cannot be waited for.
    pub fn open(
        poller: Arc<Poller>,
        owner: u32,
        server: OwnedFd,
        guest: OwnedFd,
    ) -> io::Result<Self> {
        poller.add(&guest, Token { owner, index: GUEST }, Interest::READ)?;
        poller.add(&server, Token { owner, index: SERVER }, Interest::READ)?;
        let (questions, rest) = (Incoming::default(), Vec::new());
        Ok(Self { poller, guest, server, questions, rest })
    }

    /// Deals with an event of its own.
    pub fn handle(&mut self, token: Token) -> Way {
        match token.index {
            GUEST => self.ask(),
            _ => {
                self.answer();
                Way::Open
            }
        }
    }

    fn ask(&mut self) -> Way {
        let mut buffer = [0; MAX_NAME_MESSAGE_BYTES];
        for _ in 0..MAX_READS_IN_ONE_GO {
            let read = match receive(&self.guest, &mut buffer) {
                Ok(0) => return Way::Over,
                Ok(read) => read,
                Err(error) if error == rustix::io::Errno::AGAIN => return Way::Open,
                Err(_) => return Way::Over,
            };
            self.questions.add(&buffer[..read]);
            loop {
                match self.questions.next_message() {
                    Ok(Some(question)) => {
                        // A server that is not there, or has no room: who asked asks again.
                        let _ = rustix::net::send(&self.server, &question, SEND);
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, "the guest's names are not served any more");
                        return Way::Over;
                    }
                }
            }
        }
        Way::Open
    }

    fn answer(&mut self) {
        // One more than there may be: a longer one is seen to be longer, and lost.
        let mut buffer = [0; MAX_NAME_MESSAGE_BYTES + 1];
        for _ in 0..MAX_READS_IN_ONE_GO {
            match receive(&self.server, &mut buffer) {
                Ok(read) => self.pass(&buffer[..read]),
                Err(error) if error == rustix::io::Errno::AGAIN => return,
                // Nobody listens there; the next question may find somebody.
                Err(_) => {}
            }
        }
    }

    fn pass(&mut self, answer: &[u8]) {
        self.send_rest();
        let Some(message) = framed(answer).filter(|_| self.rest.is_empty()) else { return };
        self.rest = message;
        self.send_rest();
    }

    fn send_rest(&mut self) {
        if self.rest.is_empty() {
            return;
        }
        if let Ok(sent) = rustix::net::send(&self.guest, &self.rest, SEND) {
            self.rest.drain(..sent);
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        for descriptor in [&self.guest, &self.server] {
            // Registered when it was opened.
            let _ = self.poller.remove(descriptor);
        }
    }
}

const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<usize, rustix::io::Errno> {
    rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT))
        .map(|(read, _)| read)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    struct Site {
        names: Names,
        guest: UnixStream,
        server: UdpSocket,
        here: SocketAddr,
    }

    fn site() -> Site {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
        ours.connect(server.local_addr().unwrap()).unwrap();
        let here = ours.local_addr().unwrap();
        let (guest, theirs) = UnixStream::pair().unwrap();
        let poller = Arc::new(Poller::open().unwrap());
        let names = Names::open(poller, 1, ours.into(), theirs.into()).unwrap();
        Site { names, guest, server, here }
    }

    fn event(index: u32) -> Token {
        Token { owner: 1, index }
    }

    #[test]
    fn a_question_is_a_datagram_and_its_answer_comes_back() {
        let Site { mut names, mut guest, server, here } = site();
        let question = [7; 40];
        let stream = framed(&question).unwrap();
        guest.write_all(&stream[..5]).unwrap();
        assert_eq!(names.handle(event(GUEST)), Way::Open);
        guest.write_all(&stream[5..]).unwrap();
        assert_eq!(names.handle(event(GUEST)), Way::Open);
        let mut asked = [0; 100];
        let (length, asker) = server.recv_from(&mut asked).unwrap();
        assert_eq!((&asked[..length], asker), (&question[..], here));
        server.send_to(&[9; 60], asker).unwrap();
        names.handle(event(SERVER));
        let mut answer = [0; 62];
        guest.read_exact(&mut answer).unwrap();
        assert_eq!(answer.to_vec(), framed(&[9; 60]).unwrap());
    }

    #[test]
    fn a_guest_that_hangs_up_or_makes_no_sense_ends_it() {
        let Site { mut names, mut guest, .. } = site();
        guest.write_all(&[0xff, 0xff]).unwrap();
        assert_eq!(names.handle(event(GUEST)), Way::Over);
        let Site { mut names, guest, .. } = site();
        drop(guest);
        assert_eq!(names.handle(event(GUEST)), Way::Over);
    }

    #[test]
    fn what_is_too_long_or_has_no_room_is_lost_and_no_answer_is_cut() {
        let Site { mut names, mut guest, server, here } = site();
        server.send_to(&[1; MAX_NAME_MESSAGE_BYTES + 1], here).unwrap();
        for _ in 0..400 {
            server.send_to(&[2; 2000], here).unwrap();
            names.handle(event(SERVER));
        }
        guest.set_nonblocking(true).unwrap();
        let mut incoming = Incoming::default();
        let mut buffer = [0; 10_000];
        while let Ok(read) = guest.read(&mut buffer) {
            incoming.add(&buffer[..read]);
            names.handle(event(SERVER));
        }
        names.pass(&[3; 20]);
        let read = guest.read(&mut buffer).unwrap();
        incoming.add(&buffer[..read]);
        let answers: Vec<_> = std::iter::from_fn(|| incoming.next_message().unwrap()).collect();
        assert!(answers.len() > 20, "{}", answers.len());
        let (last, others) = answers.split_last().unwrap();
        assert_eq!(last, &[3; 20]);
        assert!(others.iter().all(|answer| answer == &[2; 2000]));
    }
}
