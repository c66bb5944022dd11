//! The standard streams of processes: which host descriptors belong to which process, over which
//! vsock connections.
//!
//! ```text
//!  attach ──▶ Attached ──its connections close──▶ gone
//!                └──(ends_sandbox) exit──▶ ending ──output drained──▶ the sandbox ends
//! ```

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Instant;

use cofferdam_protocol::bounds::STREAM_PORT;
use cofferdam_protocol::control::{Attach, AttachedStreams};
use cofferdam_protocol::id::ProcessToken;
use cofferdam_protocol::stream::{StreamHeader, StreamKind, TerminalSize};
use cofferdam_virtio::vsock::{ConnectError, ConnectionId, Endpoint, Vsock};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::ioctl_tiocsctty;
use rustix::termios::tcgetwinsize;

use super::held::Held;

/// Why streams are not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The descriptors are not those that the request names.
    #[error("The request comes with {came} descriptors, and names {named}")]
    Descriptors {
        /// How many came.
        came: usize,
        /// How many it speaks of.
        named: usize,
    },
    /// A process's streams are attached once.
    #[error("The process's streams are attached already")]
    Twice,
    /// One process ends the sandbox.
    #[error("Another process ends this sandbox")]
    SecondEnd,
    /// The terminal is none, or has another session.
    #[error("The terminal cannot be taken over")]
    Terminal(#[source] Errno),
    /// The guest cannot be connected to.
    #[error("The agent cannot be connected to")]
    Connect(#[source] ConnectError),
}

/// All attached streams.
#[derive(Debug, Default)]
pub struct Streams {
    attached: BTreeMap<ProcessToken, Vec<Stream>>,
    end: Option<ProcessToken>,
    resize: Option<Resize>,
    held: Held<ConnectionId>,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    connection: ConnectionId,
    is_output: bool,
}

/// The controlling terminal and where its size goes.
#[derive(Debug)]
struct Resize {
    terminal: OwnedFd,
    sizes: OwnedFd,
}

impl Streams {
    /// Connects a process's streams to the descriptors that came with a request.
    ///
    /// # Errors
    /// When request and descriptors do not agree, or the guest has no room. Nothing is attached
    /// then.
    pub fn attach(
        &mut self,
        request: Attach,
        descriptors: Vec<OwnedFd>,
        vsock: &mut Vsock,
    ) -> Result<(), AttachError> {
        if self.attached.contains_key(&request.process) {
            return Err(AttachError::Twice);
        }
        if request.ends_sandbox && self.end.is_some() {
            return Err(AttachError::SecondEnd);
        }
        let named = kinds(request.streams);
        if named.len() != descriptors.len() {
            return Err(AttachError::Descriptors { came: descriptors.len(), named: named.len() });
        }
        let mut wiring: Vec<_> = named.into_iter().zip(descriptors).collect();
        let resize = take_terminal(request.streams, &mut wiring)?;
        let outputs = if request.ends_sandbox { second_outputs(&wiring) } else { Vec::new() };
        let streams = connect(request.process, wiring, vsock)?;
        for (place, output) in outputs {
            if let Some(stream) = streams.get(place) {
                self.held.add(stream.connection, output);
            }
        }
        self.attached.insert(request.process, streams);
        if request.ends_sandbox {
            self.end = Some(request.process);
        }
        if let Some(resize) = resize {
            resize.send();
            self.resize = Some(resize);
        }
        Ok(())
    }

    /// Whether the sandbox ends with this process.
    #[must_use]
    pub fn ends_sandbox(&self, process: ProcessToken) -> bool {
        self.end == Some(process)
    }

    /// When [`Self::expire`] has something to do next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.held.deadline()
    }

    /// Lets the readers of outputs that the guest has closed know.
    pub fn expire(&mut self, now: Instant) {
        self.held.expire(now);
    }

    /// A connection is no more.
    pub fn closed(&mut self, id: ConnectionId) {
        self.held.closed(id, Instant::now());
        self.attached.retain(|process, streams| {
            streams.retain(|stream| stream.connection != id);
            !streams.is_empty() || self.end == Some(*process)
        });
    }

    /// Whether everything that a process has sent is written, or cannot be.
    #[must_use]
    pub fn drained(&self, process: ProcessToken, vsock: &Vsock) -> bool {
        let streams = self.attached.get(&process).map(Vec::as_slice).unwrap_or_default();
        let mut outputs = streams.iter().filter(|stream| stream.is_output);
        outputs.all(|stream| vsock.drained(stream.connection))
    }

    /// Whether the container has a terminal whose size is followed.
    #[must_use]
    pub fn has_terminal(&self) -> bool {
        self.resize.is_some()
    }

    /// The controlling terminal has another size.
    pub fn resized(&self) {
        if let Some(resize) = &self.resize {
            resize.send();
        }
    }
}

impl Resize {
    /// Sends the terminal's size, if somebody has set one. A pipe that is full holds sizes that
    /// nobody has read: the guest is behind, and the next change tells it again.
    fn send(&self) {
        let size = tcgetwinsize(&self.terminal);
        if let Some(size) = size.ok().filter(|size| (size.ws_row, size.ws_col) != (0, 0)) {
            let size = TerminalSize { rows: size.ws_row, columns: size.ws_col };
            let _ = rustix::io::write(&self.sizes, &size.to_bytes());
        }
    }
}

/// The kinds of the descriptors beside a request, in their order.
fn kinds(streams: AttachedStreams) -> Vec<StreamKind> {
    match streams {
        AttachedStreams::Terminal { .. } => vec![StreamKind::Terminal],
        AttachedStreams::Pipes { stdin, stdout, stderr } => {
            let named = [
                (stdin, StreamKind::Stdin),
                (stdout, StreamKind::Stdout),
                (stderr, StreamKind::Stderr),
            ];
            named.into_iter().filter_map(|(there, kind)| there.then_some(kind)).collect()
        }
    }
}

/// The outputs once more, by their places. Where there is no descriptor left for one, its readers
/// see the end at once.
fn second_outputs(wiring: &[(StreamKind, OwnedFd)]) -> Vec<(usize, OwnedFd)> {
    let is_output = |kind| matches!(kind, StreamKind::Stdout | StreamKind::Stderr);
    let outputs = wiring.iter().enumerate().filter(|(_, (kind, _))| is_output(*kind));
    let second = |output: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(output, 0).ok();
    outputs.filter_map(|(place, (_, output))| Some((place, second(output)?))).collect()
}

/// Makes the terminal the controlling one where it is to be, and adds the stream of its sizes.
fn take_terminal(
    streams: AttachedStreams,
    wiring: &mut Vec<(StreamKind, OwnedFd)>,
) -> Result<Option<Resize>, AttachError> {
    let AttachedStreams::Terminal { controlling: true } = streams else { return Ok(None) };
    let Some((_, terminal)) = wiring.first() else { return Ok(None) };
    ioctl_tiocsctty(terminal).map_err(AttachError::Terminal)?;
    let terminal = rustix::io::fcntl_dupfd_cloexec(terminal, 0).map_err(AttachError::Terminal)?;
    let (source, sizes) =
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(AttachError::Terminal)?;
    wiring.push((StreamKind::TerminalSize, source));
    Ok(Some(Resize { terminal, sizes }))
}

fn connect(
    process: ProcessToken,
    wiring: Vec<(StreamKind, OwnedFd)>,
    vsock: &mut Vsock,
) -> Result<Vec<Stream>, AttachError> {
    let mut streams = Vec::with_capacity(wiring.len());
    for (kind, descriptor) in wiring {
        let endpoint = match kind {
            StreamKind::Stdin | StreamKind::TerminalSize => Endpoint::Source(descriptor),
            StreamKind::Stdout | StreamKind::Stderr => Endpoint::Sink(descriptor),
            StreamKind::Terminal => Endpoint::Terminal(descriptor),
        };
        let is_output =
            matches!(kind, StreamKind::Stdout | StreamKind::Stderr | StreamKind::Terminal);
        let header = StreamHeader { process, kind }.to_bytes();
        match vsock.connect(STREAM_PORT, endpoint, &header) {
            Ok(connection) => streams.push(Stream { connection, is_output }),
            Err(error) => {
                streams.iter().for_each(|stream: &Stream| vsock.close(stream.connection));
                return Err(AttachError::Connect(error));
            }
        }
    }
    Ok(streams)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptors_come_in_the_order_of_their_names() {
        let pipes = AttachedStreams::Pipes { stdin: true, stdout: false, stderr: true };
        assert_eq!(kinds(pipes), [StreamKind::Stdin, StreamKind::Stderr]);
        let terminal = AttachedStreams::Terminal { controlling: true };
        assert_eq!(kinds(terminal), [StreamKind::Terminal]);
    }
}
