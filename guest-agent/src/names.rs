//! The name server that an engine has on the loopback interface of the container's network namespace
//! on the host, at the same place in the guest.
//!
//! ```text
//!  programs ─▶ 127.0.0.11:53 ─ redirected ─▶ here ── one stream ──▶ monitor ── datagrams ──▶ server
//! ```
//!
//! Each question goes on under a number of its own, and its answer comes back to whoever asked under
//! theirs. It is not looked into further.
//!
//! Hostile: the containers. Bounds: a message's length, questions that wait, connections and how
//! long each of these does. Trusted: the answers, which come from the host.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_protocol::bounds::{MAX_NAME_MESSAGE_BYTES, MAX_PENDING_NAMES};
use cofferdam_protocol::names::{HEADER_BYTES, Incoming, framed};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::redirection::{self, Transport};
use crate::streams::Connection;

/// Where engines have it.
const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);
/// Any port that is free.
const HERE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
/// A resolver asks again after five seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before the next attempt to take a connection: without descriptors that fails as well.
const AFTER_A_FAILURE: Duration = Duration::from_millis(10);
/// Programs that ask over a stream at the same time.
const MAX_STREAMS: usize = 16;

/// Who asked.
#[derive(Debug)]
enum Asker {
    Datagram(SocketAddr),
    Stream(oneshot::Sender<Vec<u8>>),
}

/// A question over a stream.
type Question = (Vec<u8>, oneshot::Sender<Vec<u8>>);

/// Serves names for as long as the host has somebody to ask.
///
/// # Errors
/// When nothing can be redirected here, or the host hung up.
pub(crate) async fn serve(connection: Connection) -> io::Result<()> {
    let datagrams = UdpSocket::bind(HERE).await?;
    let streams = TcpListener::bind(HERE).await?;
    let ports = [
        (Transport::Udp, datagrams.local_addr()?.port()),
        (Transport::Tcp, streams.local_addr()?.port()),
    ];
    redirection::add(ADDRESS, &ports).map_err(io::Error::other)?;
    let (from_host, to_host) = tokio::io::split(connection);
    let (answers, answered) = mpsc::channel(1);
    let (questions, asked) = mpsc::channel(1);
    let reader = tokio::spawn(read_answers(from_host, answers));
    let listener = tokio::spawn(take_streams(streams, questions));
    let relay = Relay { datagrams, to_host, pending: Pending::default() };
    let ended = relay.run(answered, asked).await;
    reader.abort();
    listener.abort();
    ended
}

async fn read_answers(mut from_host: ReadHalf<Connection>, answers: mpsc::Sender<Vec<u8>>) {
    let mut incoming = Incoming::default();
    let mut buffer = [0; MAX_NAME_MESSAGE_BYTES];
    while let Ok(read @ 1..) = from_host.read(&mut buffer).await {
        incoming.add(&buffer[..read]);
        while let Ok(Some(answer)) = incoming.next_message() {
            if answers.send(answer).await.is_err() {
                return;
            }
        }
    }
}

async fn take_streams(listener: TcpListener, questions: mpsc::Sender<Question>) {
    let places = Arc::new(Semaphore::new(MAX_STREAMS));
    // A failure is of the connection, or passes.
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(AFTER_A_FAILURE).await;
            continue;
        };
        let questions = questions.clone();
        tokio::spawn(async move {
            let _ = timeout(PATIENCE, converse(stream, questions)).await;
            drop(place);
        });
    }
}

/// One question after the other.
async fn converse(mut stream: TcpStream, questions: mpsc::Sender<Question>) -> io::Result<()> {
    let mut incoming = Incoming::default();
    let mut buffer = [0; MAX_NAME_MESSAGE_BYTES];
    loop {
        while let Some(question) = incoming.next_message().map_err(io::Error::other)? {
            let (asker, answer) = oneshot::channel();
            questions.send((question, asker)).await.map_err(io::Error::other)?;
            let answer = answer.await.map_err(io::Error::other)?;
            stream.write_all(&framed(&answer).unwrap_or_default()).await?;
        }
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => incoming.add(&buffer[..read]),
        }
    }
}

/// The one who knows who asked what.
struct Relay {
    datagrams: UdpSocket,
    to_host: WriteHalf<Connection>,
    pending: Pending,
}

impl Relay {
    async fn run(
        mut self,
        mut answers: mpsc::Receiver<Vec<u8>>,
        mut questions: mpsc::Receiver<Question>,
    ) -> io::Result<()> {
        let mut buffer = [0; MAX_NAME_MESSAGE_BYTES];
        loop {
            tokio::select! {
                // What is said of an earlier answer that nobody took is no end.
                came = self.datagrams.recv_from(&mut buffer) => if let Ok((length, from)) = came {
                    self.ask(buffer[..length].to_vec(), Asker::Datagram(from)).await?;
                },
                Some((question, asker)) = questions.recv() => {
                    self.ask(question, Asker::Stream(asker)).await?;
                }
                answer = answers.recv() => match answer {
                    Some(answer) => self.answer(answer).await,
                    None => return Ok(()),
                },
            }
        }
    }

    async fn ask(&mut self, mut question: Vec<u8>, asker: Asker) -> io::Result<()> {
        if question.len() < HEADER_BYTES || !self.pending.remember(&mut question, asker) {
            return Ok(());
        }
        self.to_host.write_all(&framed(&question).unwrap_or_default()).await
    }

    /// Who does not wait any more gets none.
    async fn answer(&mut self, mut answer: Vec<u8>) {
        match self.pending.recall(&mut answer) {
            Some(Asker::Datagram(to)) => drop(self.datagrams.send_to(&answer, to).await),
            Some(Asker::Stream(asker)) => drop(asker.send(answer)),
            None => {}
        }
    }
}

/// Questions that wait, by the numbers under which they went on.
#[derive(Debug, Default)]
struct Pending {
    next: u16,
    waiting: HashMap<[u8; 2], Waiting>,
}

#[derive(Debug)]
struct Waiting {
    asker: Asker,
    number: [u8; 2],
    since: Instant,
}

impl Pending {
    /// Gives a question another number; false when too many wait.
    fn remember(&mut self, question: &mut [u8], asker: Asker) -> bool {
        if self.waiting.len() >= MAX_PENDING_NAMES {
            self.waiting.retain(|_, waiting| waiting.since.elapsed() < PATIENCE);
        }
        let Some(number) = question.first_chunk_mut::<2>() else { return false };
        if self.waiting.len() >= MAX_PENDING_NAMES {
            return false;
        }
        // Fewer wait than there are numbers.
        while self.waiting.contains_key(&self.next.to_be_bytes()) {
            self.next = self.next.wrapping_add(1);
        }
        let waiting = Waiting { asker, number: *number, since: Instant::now() };
        *number = self.next.to_be_bytes();
        self.waiting.insert(*number, waiting);
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Gives an answer the number of its question; who asked.
    fn recall(&mut self, answer: &mut [u8]) -> Option<Asker> {
        let number = answer.first_chunk_mut::<2>()?;
        let waiting = self.waiting.remove(number)?;
        *number = waiting.number;
        Some(waiting.asker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(port: u16) -> Asker {
        Asker::Datagram(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    #[test]
    fn equal_numbers_of_two_programs_are_told_apart() {
        let mut pending = Pending::default();
        let (mut first, mut second) = (*b"ab question", *b"ab question");
        assert!(pending.remember(&mut first, asker(1)));
        assert!(pending.remember(&mut second, asker(2)));
        assert_ne!(first, second);
        let asked = |asker: Option<Asker>| match asker {
            Some(Asker::Datagram(address)) => address.port(),
            _ => 0,
        };
        assert_eq!(asked(pending.recall(&mut second)), 2);
        assert_eq!(&second, b"ab question");
        assert_eq!(asked(pending.recall(&mut first)), 1);
        assert!(pending.recall(&mut first).is_none());
    }

    #[test]
    fn so_many_wait_and_no_more() {
        let mut pending = Pending::default();
        let mut ask = || pending.remember(&mut [0; HEADER_BYTES], asker(1));
        assert!((0..MAX_PENDING_NAMES).all(|_| ask()));
        assert!(!ask());
        for waiting in pending.waiting.values_mut() {
            waiting.since -= PATIENCE;
        }
        assert!(pending.remember(&mut [0; HEADER_BYTES], asker(1)));
        assert_eq!(pending.waiting.len(), 1);
    }
}
