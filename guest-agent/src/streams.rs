//! The bytes of processes' standard streams, between their pipes and the host's connections.
//!
//! ```text
//!  output: waiting for its connection ▶ pumping ▶ (process ended) draining ▶ drained ▶ … ▶ end
//! ```
//! Until the connection comes, what a process writes stays in its pipe. When the process ends,
//! what it wrote is sent before anybody is told of its end. The pipe may live on, in the hands of
//! the process's children: then so does the pump.

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

use crate::inside::terminal;
use crate::stdio::AgentStreams;
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
    /// Where a connection is awaited.
    awaited: Mutex<HashMap<StreamKind, oneshot::Sender<Connection>>>,
    ended: watch::Sender<bool>,
    drains: Mutex<Vec<oneshot::Receiver<()>>>,
    /// One for each output, until it has its connection.
    awaiting: Mutex<Vec<oneshot::Receiver<Infallible>>>,
    terminal: Option<Weak<Master>>,
}

impl Streams {
    /// Takes the agent's ends and begins to wait for their connections.
    pub(crate) fn new(ends: AgentStreams) -> io::Result<Self> {
        let (ended, _) = watch::channel(false);
        let mut streams = Self {
            awaited: Mutex::default(),
            ended,
            drains: Mutex::default(),
            awaiting: Mutex::default(),
            terminal: None,
        };
        if let Some(stdin) = ends.stdin {
            let stdin = Arc::new(sys::register(stdin)?);
            streams.expect(StreamKind::Stdin, |streams, connection| {
                tokio::spawn(input(connection, stdin, streams.ended.subscribe()));
            });
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
            let for_size = Arc::downgrade(&master);
            streams.expect(StreamKind::TerminalSize, |_, connection| {
                tokio::spawn(sizes(connection, for_size));
            });
            streams.expect_output(StreamKind::Terminal, master);
        }
        Ok(streams)
    }

    fn expect(&self, kind: StreamKind, start: impl FnOnce(&Self, oneshot::Receiver<Connection>)) {
        let (sender, receiver) = oneshot::channel();
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, sender);
        start(self, receiver);
    }

    fn expect_output(&self, kind: StreamKind, end: Arc<AsyncFd<OwnedFd>>) {
        let (done, drained) = oneshot::channel();
        self.drains.lock().unwrap_or_else(PoisonError::into_inner).push(drained);
        let (awaits, awaited) = oneshot::channel();
        self.outputs().push(awaited);
        self.expect(kind, |streams, connection| {
            let output = Output { end, ended: streams.ended.subscribe(), drained: Some(done) };
            tokio::spawn(output.run(connection, awaits, kind == StreamKind::Terminal));
        });
    }

    /// Gives a stream its connection. One that is not awaited is closed.
    pub(crate) fn connect(&self, kind: StreamKind, connection: Connection) {
        let awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner).remove(&kind);
        if let Some(awaited) = awaited {
            // The stream has ended: the connection is closed.
            let _ = awaited.send(connection);
        }
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
async fn sizes(connection: oneshot::Receiver<Connection>, master: Weak<Master>) {
    let Ok(mut connection) = connection.await else { return };
    let mut frame = [0; TerminalSize::BYTES];
    while connection.read_exact(&mut frame).await.is_ok() {
        let Some(master) = master.upgrade() else { return };
        // The terminal is going away: the next round sees it.
        let _ = set_size(&master, TerminalSize::from_bytes(frame));
    }
}

/// Standard input over a connection of its own. Its end closes the pipe.
async fn input(
    connection: oneshot::Receiver<Connection>,
    end: Arc<AsyncFd<OwnedFd>>,
    mut ended: watch::Receiver<bool>,
) {
    let connection = tokio::select! {
        connection = connection => connection.ok(),
        _ = ended.wait_for(|ended| *ended) => None,
    };
    if let Some(connection) = connection {
        pump_input(connection, &end, ended).await;
    }
}

/// Carries bytes into a pipe or a terminal until the host's end, or the process's.
async fn pump_input(
    mut from: impl AsyncRead + Unpin,
    to: &AsyncFd<OwnedFd>,
    mut ended: watch::Receiver<bool>,
) {
    let pump = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(count) = from.read(&mut buffer).await {
            let bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() || write_all(to, bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = pump => {}
        _ = ended.wait_for(|ended| *ended) => {}
    }
}

async fn write_all(to: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = to.writable().await?;
        match ready.try_io(|to| Ok(rustix::io::write(to, bytes)?)) {
            Ok(Ok(written)) => bytes = bytes.get(written..).unwrap_or_default(),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    Ok(())
}

/// What a process writes.
struct Output {
    end: Arc<AsyncFd<OwnedFd>>,
    ended: watch::Receiver<bool>,
    /// Dropped or sent to: everything that the process wrote is sent.
    drained: Option<oneshot::Sender<()>>,
}

impl Output {
    async fn run(
        mut self,
        connection: oneshot::Receiver<Connection>,
        awaits: oneshot::Sender<Infallible>,
        both_ways: bool,
    ) {
        let Some(connection) = self.claimed(connection).await else { return };
        drop(awaits);
        let (from, to) = tokio::io::split(connection);
        if both_ways {
            let (end, ended) = (Arc::clone(&self.end), self.ended.clone());
            let input = tokio::spawn(async move { pump_input(from, &end, ended).await });
            self.pump(to).await;
            input.abort();
        } else {
            self.pump(to).await;
        }
    }

    /// The connection; none when the process has ended and nobody comes for what it left.
    async fn claimed(
        &mut self,
        mut connection: oneshot::Receiver<Connection>,
    ) -> Option<Connection> {
        tokio::select! {
            biased;
            connection = &mut connection => return connection.ok(),
            // An error: the process is forgotten, which comes after its end.
            _ = self.ended.wait_for(|ended| *ended) => {}
        }
        if rustix::io::ioctl_fionread(&*self.end).unwrap_or(0) == 0 {
            // It left nothing. Its children may yet write.
            self.drained = None;
        }
        tokio::time::timeout(UNCLAIMED, connection).await.ok()?.ok()
    }

    async fn pump(&mut self, mut to: impl AsyncWrite + Unpin) {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut sent_since_end = 0;
        loop {
            let count = match rustix::io::read(&*self.end, buffer.as_mut_slice()) {
                Ok(0) => break,
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => match self.more().await {
                    Ok(()) => continue,
                    Err(_) => break,
                },
                // EIO: the last process has closed the terminal.
                Err(_) => break,
            };
            if to.write_all(buffer.get(..count).unwrap_or_default()).await.is_err() {
                // The host's reader went away. Dropping the pipe tells the writers.
                return;
            }
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

    /// The pipe is empty: waits until it is not, or its process ended.
    async fn more(&mut self) -> io::Result<()> {
        if *self.ended.borrow() {
            self.drained = None;
            self.end.readable().await?.clear_ready();
            return Ok(());
        }
        tokio::select! {
            // Cleared before the next read, which then goes on until the pipe is empty again.
            ready = self.end.readable() => ready?.clear_ready(),
            // An error: the process is forgotten, which comes after its end.
            _ = self.ended.changed() => {}
        }
        Ok(())
    }
}

impl std::fmt::Debug for dyn Duplex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}
