//! The bytes of processes' standard streams, between their pipes and the host's connections.
//!
//! ```text
//!  output: waiting for its connection ▶ pumping ▶ (process ended) draining ▶ drained ▶ … ▶ end
//! ```
//! Until the connection comes, what a process writes stays in its pipe. When the process ends,
//! what it wrote is sent before anybody is told of its end. The pipe may live on, in the hands of
//! the process's children: then so does the pump.
//!
//! A connection ends with its machine when that is saved and restored. What was not sent over it is
//! sent over the next.

mod incoming;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use cofferdam_protocol::stream::{StreamKind, TerminalSize};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::inside::terminal;
use crate::stdio::AgentStreams;
use crate::streams::incoming::{Incoming, Life, Machine, Slot};
use crate::sys;

/// One pipe's content at most.
const BUFFER_BYTES: usize = 64 << 10;
/// A pipe holds at most this much (`/proc/sys/fs/pipe-max-size`) when its process ends. Whatever
/// comes after as many bytes, somebody else wrote.
const MAX_DRAIN_BYTES: usize = (1 << 20) + BUFFER_BYTES;
/// Output of an ended process whose connection does not come in this time is lost.
const UNCLAIMED: Duration = Duration::from_secs(10);

/// A connection to the host.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection of any transport.
pub type Connection = Box<dyn Duplex>;

/// The master side of a terminal, for as long as anything is pumped from it.
type Master = AsyncFd<OwnedFd>;

/// The streams of one process.
#[derive(Debug)]
pub(crate) struct Streams {
    slots: Mutex<HashMap<StreamKind, Slot>>,
    machine: watch::Sender<Machine>,
    ended: watch::Sender<bool>,
    drains: Mutex<Vec<oneshot::Receiver<()>>>,
    /// One for each output, until it has its connection.
    awaiting: Mutex<Vec<oneshot::Receiver<Infallible>>>,
    terminal: Option<Weak<Master>>,
}

impl Streams {
    /// Takes the agent's ends and begins to wait for their connections.
    pub(crate) fn new(ends: AgentStreams) -> io::Result<Self> {
        let mut streams = Self {
            slots: Mutex::default(),
            machine: watch::Sender::default(),
            ended: watch::Sender::default(),
            drains: Mutex::default(),
            awaiting: Mutex::default(),
            terminal: None,
        };
        if let Some(stdin) = ends.stdin {
            let stdin = Arc::new(sys::register(stdin)?);
            let incoming = streams.expect(StreamKind::Stdin);
            tokio::spawn(input(incoming, stdin, streams.ended.subscribe()));
        }
        for (kind, end) in [(StreamKind::Stdout, ends.stdout), (StreamKind::Stderr, ends.stderr)] {
            if let Some(end) = end {
                let end = Arc::new(sys::register(end)?);
                streams.expect_output(kind, end);
            }
        }
        if let Some(master) = ends.terminal {
            rustix::io::ioctl_fionbio(&master, true)?;
            let master = Arc::new(sys::register(master)?);
            streams.terminal = Some(Arc::downgrade(&master));
            let incoming = streams.expect(StreamKind::TerminalSize);
            tokio::spawn(sizes(incoming, Arc::downgrade(&master)));
            streams.expect_output(StreamKind::Terminal, master);
        }
        Ok(streams)
    }

    fn expect(&self, kind: StreamKind) -> Incoming {
        let (slot, incoming) = incoming::pair(self.machine.subscribe());
        self.slots().insert(kind, slot);
        incoming
    }

    fn expect_output(&self, kind: StreamKind, end: Arc<AsyncFd<OwnedFd>>) {
        let (done, drained) = oneshot::channel();
        self.drains.lock().unwrap_or_else(PoisonError::into_inner).push(drained);
        let (awaits, awaited) = oneshot::channel();
        self.outputs().push(awaited);
        let incoming = self.expect(kind);
        let output = Output { end, ended: self.ended.subscribe(), drained: Some(done), incoming };
        tokio::spawn(output.run(awaits, kind == StreamKind::Terminal));
    }

    /// Gives a stream its connection. One that is not awaited is closed.
    pub(crate) fn connect(&self, kind: StreamKind, connection: Connection) {
        if let Some(slot) = self.slots().get_mut(&kind) {
            slot.give(connection);
        }
    }

    /// The machine is about to be saved, or is not any more. While it is, everything that was
    /// sent to the process is taken from its connection, and kept here if need be.
    pub(crate) fn suspend(&self, suspending: bool) {
        self.machine.send_modify(|machine| machine.suspending = suspending);
    }

    /// The machine was restored: every connection is over. Those that are open will come again,
    /// or nobody is there to make them.
    pub(crate) fn restored(&self, come_again: bool) {
        let mut slots = self.slots();
        if come_again {
            slots.values_mut().for_each(Slot::expect_again);
        } else {
            slots.clear();
        }
        let machine = |machine: &mut Machine| {
            *machine = Machine { suspending: false, life: machine.life + 1 };
        };
        self.machine.send_modify(machine);
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<StreamKind, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process ended. Returns when everything that it wrote is sent, or cannot be.
    pub(crate) async fn drain(&self) {
        self.ended.send_replace(true);
        let drains =
            std::mem::take(&mut *self.drains.lock().unwrap_or_else(PoisonError::into_inner));
        for drained in drains {
            // An error: the output is gone with its connection.
            let _ = drained.await;
        }
    }

    /// The process is done and its output sent, but its children may hold the pipes: waits until
    /// every stream has its connection, or none can come any more.
    pub(crate) async fn linger(&self) {
        let awaited = std::mem::take(&mut *self.outputs());
        for output in awaited {
            // An error is what is waited for: the stream awaits its connection no more.
            let _ = output.await;
        }
    }

    fn outputs(&self) -> MutexGuard<'_, Vec<oneshot::Receiver<Infallible>>> {
        self.awaiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the terminal's size. Without a terminal there is nothing to set.
    pub(crate) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        match self.terminal.as_ref().and_then(Weak::upgrade) {
            Some(master) => set_size(&master, size),
            None => Ok(()),
        }
    }
}

fn set_size(master: &Master, size: TerminalSize) -> io::Result<()> {
    Ok(rustix::termios::tcsetwinsize(master, terminal::size(size.rows, size.columns))?)
}

/// Terminal sizes from the host, until it closes or the terminal is gone.
async fn sizes(mut incoming: Incoming, master: Weak<Master>) {
    while let Some(mut connection) = incoming.next().await {
        while let Some(size) = next_size(&mut connection, &mut incoming).await {
            let Some(master) = master.upgrade() else { return };
            // The terminal is going away: the next round sees it.
            let _ = set_size(&master, size);
        }
        if !incoming.was_cut() {
            return;
        }
    }
}

/// None when the connection is over, or its machine.
async fn next_size(connection: &mut Connection, incoming: &mut Incoming) -> Option<TerminalSize> {
    let mut frame = [0; TerminalSize::BYTES];
    tokio::select! {
        read = connection.read_exact(&mut frame) => read.ok().map(|_| ())?,
        () = incoming.cut() => return None,
    }
    Some(TerminalSize::from_bytes(frame))
}

/// Standard input over a connection of its own. Its end closes the pipe.
async fn input(
    mut incoming: Incoming,
    end: Arc<AsyncFd<OwnedFd>>,
    mut ended: watch::Receiver<bool>,
) {
    loop {
        let connection = tokio::select! {
            connection = incoming.next() => connection,
            _ = ended.wait_for(|ended| *ended) => None,
        };
        let Some(connection) = connection else { return };
        pump_input(connection, &end, ended.clone(), incoming.life()).await;
        if !incoming.was_cut() {
            return;
        }
    }
}

/// Carries bytes into a pipe or a terminal until the host's end, the process's, or the machine's. A
/// process that does not read has a buffer full kept for it; before the machine is saved, all that
/// was sent, which it gets when the machine goes on.
async fn pump_input(
    mut from: impl AsyncRead + Unpin,
    to: &AsyncFd<OwnedFd>,
    mut ended: watch::Receiver<bool>,
    mut life: Life,
) {
    let (mut kept, mut open) = (Vec::new(), true);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let room = life.is_suspending() || kept.len() < BUFFER_BYTES;
        // Nobody tells the guest's kernel that a connection is over with its machine.
        open = open && !life.is_over();
        if !open && kept.is_empty() {
            return;
        }
        tokio::select! {
            read = from.read(&mut buffer), if open && room => {
                let bytes = buffer.get(..read.unwrap_or(0)).unwrap_or_default();
                open = !bytes.is_empty();
                kept.extend_from_slice(bytes);
            }
            written = write_some(to, &kept), if !kept.is_empty() => match written {
                Ok(count) => drop(kept.drain(..count)),
                Err(_) => return,
            },
            goes_on = life.changed(), if open => open = goes_on,
            _ = ended.wait_for(|ended| *ended) => return,
        }
    }
}

/// Writes as much as there is room for.
async fn write_some(to: &AsyncFd<OwnedFd>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        let mut ready = to.writable().await?;
        match ready.try_io(|to| Ok(rustix::io::write(to, bytes)?)) {
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(written) => return written,
            Err(_would_block) => {}
        }
    }
}

/// What a process writes.
struct Output {
    end: Arc<AsyncFd<OwnedFd>>,
    ended: watch::Receiver<bool>,
    /// Dropped or sent to: everything that the process wrote is sent.
    drained: Option<oneshot::Sender<()>>,
    incoming: Incoming,
}

impl Output {
    async fn run(mut self, awaits: oneshot::Sender<Infallible>, both_ways: bool) {
        let (mut unsent, mut awaits) = (Vec::new(), Some(awaits));
        let mut input: Option<JoinHandle<()>> = None;
        while let Some(connection) = self.claimed().await {
            awaits = None;
            let (from, to) = tokio::io::split(connection);
            if both_ways {
                let (end, ended) = (Arc::clone(&self.end), self.ended.clone());
                let (life, before) = (self.incoming.life(), input.take());
                input = Some(tokio::spawn(async move {
                    // What came over the connection before this one goes first.
                    if let Some(before) = before {
                        let _ = before.await;
                    }
                    pump_input(from, &end, ended, life).await;
                }));
            }
            self.pump(to, &mut unsent).await;
            if !self.incoming.was_cut() {
                break;
            }
        }
        drop(awaits);
        if let Some(input) = input {
            input.abort();
        }
    }

    /// The connection; none when the process has ended and nobody comes for what it left.
    async fn claimed(&mut self) -> Option<Connection> {
        tokio::select! {
            biased;
            connection = self.incoming.next() => return connection,
            // An error: the process is forgotten, which comes after its end.
            _ = self.ended.wait_for(|ended| *ended) => {}
        }
        if rustix::io::ioctl_fionread(&*self.end).unwrap_or(0) == 0 {
            // It left nothing. Its children may yet write.
            self.drained = None;
        }
        tokio::time::timeout(UNCLAIMED, self.incoming.next()).await.ok()?
    }

    /// Until the process's output ends, or the connection does. What of `unsent` could not be sent
    /// stays in it.
    async fn pump(&mut self, mut to: impl AsyncWrite + Unpin, unsent: &mut Vec<u8>) {
        let mut sent_since_end = 0;
        loop {
            while !unsent.is_empty() {
                match to.write(unsent).await {
                    // The host's reader went away. Dropping the pipe tells the writers.
                    Ok(0) | Err(_) => return,
                    Ok(count) => drop(unsent.drain(..count)),
                }
            }
            let mut buffer = vec![0; BUFFER_BYTES];
            let count = match rustix::io::read(&*self.end, buffer.as_mut_slice()) {
                Ok(0) => break,
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => match self.more().await {
                    Ok(true) => continue,
                    Ok(false) => return,
                    Err(_) => break,
                },
                // EIO: the last process has closed the terminal.
                Err(_) => break,
            };
            unsent.extend_from_slice(buffer.get(..count).unwrap_or_default());
            if *self.ended.borrow() {
                sent_since_end += count;
            }
            if sent_since_end >= MAX_DRAIN_BYTES {
                self.drained = None;
            }
        }
        // The half-close; the host may have gone already.
        let _ = to.shutdown().await;
        self.drained = None;
    }

    /// The pipe is empty: waits until it is not, or its process ended. False when the connection
    /// is over meanwhile, with its machine.
    async fn more(&mut self) -> io::Result<bool> {
        if *self.ended.borrow() {
            self.drained = None;
            self.end.readable().await?.clear_ready();
            return Ok(true);
        }
        tokio::select! {
            // Cleared before the next read, which then goes on until the pipe is empty again.
            ready = self.end.readable() => ready?.clear_ready(),
            // An error: the process is forgotten, which comes after its end.
            _ = self.ended.changed() => {}
            () = self.incoming.cut() => return Ok(false),
        }
        Ok(true)
    }
}

impl std::fmt::Debug for dyn Duplex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}
