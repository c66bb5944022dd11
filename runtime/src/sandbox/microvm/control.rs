//! The monitor's control socket, the client's side: a connection to the agent, or the streams of
//! a process.
//!
//! Not hostile but may be gone: the monitor answers here, not the guest. Every answer has a
//! deadline all the same, but for [`StreamsConnection::drain`]: how long the reader of a
//! container's output takes is its own affair.

use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cofferdam_protocol::bounds::{MAX_CONTROL_ANSWER_BYTES, MAX_CONTROL_BYTES};
use cofferdam_protocol::control::{
    Attach, AttachCommand, AttachDisk, AttachNetwork, CheckpointCommand, ControlRequest,
    ControlResponse,
};
use cofferdam_protocol::frame::{self, FrameError};
use cofferdam_protocol::monitor_metrics::MonitorMetrics;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use super::rpc::Connection;

/// The socket's name in the state folder.
pub(super) const SOCKET: &str = "control.sock";

/// Why the monitor cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket cannot be made.
    #[error("Cannot make the control socket {}", .path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody listens: the monitor is gone.
    #[error("Cannot reach the monitor at {}", .path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The request cannot be sent.
    #[error("Cannot send a request to the monitor")]
    Send(#[source] io::Error),
    /// The request is no document.
    #[error("Cannot write a request to the monitor")]
    Frame(#[source] FrameError),
    /// No answer, or none that can be read.
    #[error("The monitor did not answer")]
    Answer(#[source] FrameError),
    /// It said no.
    #[error("The monitor refused: {0}")]
    Refused(String),
    /// It answered something else.
    #[error("The monitor's answer makes no sense")]
    Unexpected,
}

/// The listening socket, removed from the state folder when dropped before its release.
#[derive(Debug)]
pub(super) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    released: bool,
}

impl ControlSocket {
    /// Makes the socket, for the caller's own user only. A stale one is replaced.
    pub(super) fn listen(state_folder: &Path) -> Result<Self, ControlError> {
        let path = state_folder.join(SOCKET);
        let make = || {
            remove(&path)?;
            let folder = open_folder(state_folder)?;
            let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
            let listener = UnixListener::bind(short_path(&folder));
            rustix::process::umask(mask);
            listener
        };
        match make() {
            Ok(listener) => Ok(Self { listener, path, released: false }),
            Err(source) => Err(ControlError::Listen { path, source }),
        }
    }

    /// For the monitor.
    pub(super) const fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Lets the name stay.
    pub(super) fn release(mut self) {
        self.released = true;
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if !self.released {
            // The state folder is removed next, with whatever is in it.
            let _ = remove(&self.path);
        }
    }
}

/// Removes the socket's name, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A connection to the guest's agent.
pub(super) fn connect_agent(
    state_folder: &Path,
    timeout: Duration,
) -> Result<Connection, ControlError> {
    let stream = connect(state_folder, timeout)?;
    frame::write_frame(&stream, &ControlRequest::ConnectAgent, MAX_CONTROL_BYTES)
        .map_err(ControlError::Frame)?;
    expect(&stream, &ControlResponse::Done)?;
    Ok(Connection::new(stream))
}

/// Has the monitor give the guest this many blocks of memory, or take the rest away; the address of
/// the first.
pub(super) fn set_memory_blocks(
    state_folder: &Path,
    blocks: u32,
    timeout: Duration,
) -> Result<u64, ControlError> {
    let stream = connect(state_folder, timeout)?;
    let request = ControlRequest::SetMemoryBlocks(blocks);
    frame::write_frame(&stream, &request, MAX_CONTROL_BYTES).map_err(ControlError::Frame)?;
    match frame::read_frame(&stream, MAX_CONTROL_ANSWER_BYTES).map_err(ControlError::Answer)? {
        ControlResponse::Memory { first_block } => Ok(first_block),
        ControlResponse::Refused(reason) => Err(ControlError::Refused(reason)),
        _ => Err(ControlError::Unexpected),
    }
}

/// Has the monitor make a network device of a tap's queues; its number among the guest's devices.
pub(super) fn attach_network(
    state_folder: &Path,
    request: AttachNetwork,
    tap: &[BorrowedFd<'_>],
    timeout: Duration,
) -> Result<u32, ControlError> {
    let stream = connect(state_folder, timeout)?;
    send_request(&stream, &ControlRequest::AttachNetwork(request), tap)?;
    match frame::read_frame(&stream, MAX_CONTROL_ANSWER_BYTES).map_err(ControlError::Answer)? {
        ControlResponse::Network { device } => Ok(device),
        ControlResponse::Refused(reason) => Err(ControlError::Refused(reason)),
        _ => Err(ControlError::Unexpected),
    }
}

/// Has the monitor make a block device of a disk; its number among the guest's devices.
pub(super) fn attach_disk(
    state_folder: &Path,
    request: AttachDisk,
    disk: BorrowedFd<'_>,
    timeout: Duration,
) -> Result<u32, ControlError> {
    let stream = connect(state_folder, timeout)?;
    send_request(&stream, &ControlRequest::AttachDisk(request), &[disk])?;
    match frame::read_frame(&stream, MAX_CONTROL_ANSWER_BYTES).map_err(ControlError::Answer)? {
        ControlResponse::Disk { device } => Ok(device),
        ControlResponse::Refused(reason) => Err(ControlError::Refused(reason)),
        _ => Err(ControlError::Unexpected),
    }
}

/// Has the monitor take the block device of this number away, and let go of its disk.
pub(super) fn detach_disk(
    state_folder: &Path,
    device: u32,
    timeout: Duration,
) -> Result<(), ControlError> {
    let stream = connect(state_folder, timeout)?;
    let request = ControlRequest::DetachDisk(device);
    frame::write_frame(&stream, &request, MAX_CONTROL_BYTES).map_err(ControlError::Frame)?;
    expect(&stream, &ControlResponse::Done)
}

/// Has the monitor take the network device of this number away, and let go of its tap.
pub(super) fn detach_network(
    state_folder: &Path,
    device: u32,
    timeout: Duration,
) -> Result<(), ControlError> {
    let stream = connect(state_folder, timeout)?;
    let request = ControlRequest::DetachNetwork(device);
    frame::write_frame(&stream, &request, MAX_CONTROL_BYTES).map_err(ControlError::Frame)?;
    expect(&stream, &ControlResponse::Done)
}

/// Has the monitor carry the guest's questions for names: over a socket that is connected to the
/// server, and a pair of which the guest gets the second.
pub(super) fn serve_names(
    state_folder: &Path,
    descriptors: &[BorrowedFd<'_>; 3],
    timeout: Duration,
) -> Result<(), ControlError> {
    let stream = connect(state_folder, timeout)?;
    send_request(&stream, &ControlRequest::ServeNames, descriptors)?;
    expect(&stream, &ControlResponse::Done)
}

/// Has the monitor carry connections into the guest: what has them come to it, and the sockets to which
/// they come.
pub(super) fn forward(
    state_folder: &Path,
    descriptors: &[BorrowedFd<'_>],
    timeout: Duration,
) -> Result<(), ControlError> {
    let stream = connect(state_folder, timeout)?;
    send_request(&stream, &ControlRequest::Forward, descriptors)?;
    expect(&stream, &ControlResponse::Done)
}

/// The streams of a process, as long as it is open or not: the monitor carries them on by itself.
#[derive(Debug)]
pub(super) struct StreamsConnection {
    stream: UnixStream,
}

impl StreamsConnection {
    /// Gives the monitor the descriptors that a process's streams go to.
    pub(super) fn attach(
        state_folder: &Path,
        attach: Attach,
        descriptors: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<Self, ControlError> {
        let stream = connect(state_folder, timeout)?;
        send_request(&stream, &ControlRequest::Attach(attach), descriptors)?;
        expect(&stream, &ControlResponse::Done)?;
        Ok(Self { stream })
    }

    /// Waits until everything that the guest has sent so far is with the descriptors' readers.
    pub(super) fn drain(&self) -> Result<(), ControlError> {
        self.stream.set_read_timeout(None).map_err(ControlError::Send)?;
        frame::write_frame(&self.stream, &AttachCommand::Drain, MAX_CONTROL_BYTES)
            .map_err(ControlError::Frame)?;
        expect(&self.stream, &ControlResponse::Drained)
    }
}

impl AsFd for StreamsConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A machine that was saved and stands still. To hang up lets it run on.
#[derive(Debug)]
pub(super) struct SavedMachine {
    stream: UnixStream,
}

impl SavedMachine {
    /// Has the monitor save the machine into two files.
    pub(super) fn save(
        state_folder: &Path,
        memory: &File,
        state: &File,
        timeout: Duration,
    ) -> Result<Self, ControlError> {
        let stream = connect(state_folder, timeout)?;
        send_request(&stream, &ControlRequest::Checkpoint, &[memory.as_fd(), state.as_fd()])?;
        expect(&stream, &ControlResponse::Saved)?;
        Ok(Self { stream })
    }

    /// Lets it run on.
    pub(super) fn resume(self) -> Result<(), ControlError> {
        frame::write_frame(&self.stream, &CheckpointCommand::Resume, MAX_CONTROL_BYTES)
            .map_err(ControlError::Frame)?;
        expect(&self.stream, &ControlResponse::Done)
    }

    /// Leaves it standing still for as long as this process lives, which ends it.
    pub(super) fn abandon(self) {
        std::mem::forget(self.stream);
    }
}

/// Sends a request with descriptors beside it.
fn send_request(
    stream: &UnixStream,
    request: &ControlRequest,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), ControlError> {
    let bytes = frame::encode(request, MAX_CONTROL_BYTES).map_err(ControlError::Frame)?;
    let raw: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let data = [IoSlice::new(&bytes)];
    let sent = sendmsg::<()>(stream.as_raw_fd(), &data, rights, MsgFlags::MSG_NOSIGNAL, None)
        .map_err(|errno| ControlError::Send(errno.into()))?;
    // A frame of a hundred bytes into an empty socket buffer.
    if sent == bytes.len() { Ok(()) } else { Err(ControlError::Unexpected) }
}

fn connect(state_folder: &Path, timeout: Duration) -> Result<UnixStream, ControlError> {
    let connect = || {
        let folder = open_folder(state_folder)?;
        let stream = UnixStream::connect(short_path(&folder))?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(stream)
    };
    connect().map_err(|source| ControlError::Connect { path: state_folder.join(SOCKET), source })
}

/// Has a request sent without ever waiting: a monitor that stands still has a socket that fills up.
fn ask(state_folder: &Path, request: &ControlRequest) -> Result<UnixStream, ControlError> {
    let connect = || {
        let folder = open_folder(state_folder)?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(short_path(&folder))?)?;
        Ok(UnixStream::from(socket))
    };
    let path = || state_folder.join(SOCKET);
    let stream = connect().map_err(|source| ControlError::Connect { path: path(), source })?;
    send_request(&stream, request, &[])?;
    stream.set_nonblocking(false).map_err(ControlError::Send)?;
    Ok(stream)
}

/// Reads until a moment; what is there already is read after it, too.
struct Until<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.stream.set_nonblocking(true)?;
        } else {
            self.stream.set_read_timeout(Some(left))?;
        }
        (&mut &*self.stream).read(buffer)
    }
}

/// Asks many monitors for what they count, all at once, and waits for none of them longer than until
/// the deadline. The answers are in the order of the state folders.
pub(super) fn ask_metrics(
    state_folders: &[PathBuf],
    deadline: Instant,
) -> Vec<Result<MonitorMetrics, ControlError>> {
    let asked: Vec<_> =
        state_folders.iter().map(|folder| ask(folder, &ControlRequest::Metrics)).collect();
    let answers = asked.into_iter().map(|stream| {
        let answer = Until { stream: &stream?, deadline };
        match frame::read_frame(answer, MAX_CONTROL_ANSWER_BYTES).map_err(ControlError::Answer)? {
            ControlResponse::Metrics(metrics) => Ok(metrics),
            ControlResponse::Refused(reason) => Err(ControlError::Refused(reason)),
            _ => Err(ControlError::Unexpected),
        }
    });
    answers.collect()
}

fn expect(stream: &UnixStream, expected: &ControlResponse) -> Result<(), ControlError> {
    match frame::read_frame(stream, MAX_CONTROL_ANSWER_BYTES).map_err(ControlError::Answer)? {
        ControlResponse::Refused(reason) => Err(ControlError::Refused(reason)),
        response if response == *expected => Ok(()),
        _ => Err(ControlError::Unexpected),
    }
}

fn open_folder(state_folder: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(state_folder, flags, Mode::empty())?.into())
}

/// The address of a Unix socket has 107 bytes, a state folder's path may have more.
fn short_path(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use cofferdam_protocol::control::AttachedStreams;
    use cofferdam_protocol::id::ProcessToken;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn state_folder() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("x".repeat(200));
        std::fs::create_dir(&folder).unwrap();
        (root, folder)
    }

    fn attach(process: u64) -> Attach {
        let streams = AttachedStreams::Pipes { stdin: false, stdout: true, stderr: false };
        Attach { process: ProcessToken(process), streams, ends_sandbox: true }
    }

    #[test]
    fn a_socket_below_a_long_path_is_the_owners_alone() {
        let (_root, folder) = state_folder();
        let _first = ControlSocket::listen(&folder).unwrap();
        let _second = ControlSocket::listen(&folder).unwrap();
        let mode = std::fs::metadata(folder.join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn streams_are_given_with_their_descriptors_and_drained() {
        let (_root, folder) = state_folder();
        let socket = ControlSocket::listen(&folder).unwrap();
        let monitor = thread::spawn(move || {
            let (stream, _) = socket.listener().accept().unwrap();
            let mut space = nix::cmsg_space!([i32; 3]);
            let mut buffer = [0; 512];
            let received = {
                let mut data = [std::io::IoSliceMut::new(&mut buffer)];
                let message = nix::sys::socket::recvmsg::<()>(
                    stream.as_raw_fd(),
                    &mut data,
                    Some(&mut space),
                    MsgFlags::empty(),
                )
                .unwrap();
                message.cmsgs().unwrap().count()
            };
            let request: ControlRequest = frame::read_frame(&buffer[..], 512).unwrap();
            frame::write_frame(&stream, &ControlResponse::Done, 512).unwrap();
            let command: AttachCommand = frame::read_frame(&stream, 512).unwrap();
            frame::write_frame(&stream, &ControlResponse::Drained, 512).unwrap();
            (received, request, command)
        });
        let null: OwnedFd = File::open("/dev/null").unwrap().into();
        let streams = StreamsConnection::attach(&folder, attach(7), &[null.as_fd()], TIMEOUT);
        streams.unwrap().drain().unwrap();
        let expected = (1, ControlRequest::Attach(attach(7)), AttachCommand::Drain);
        assert_eq!(monitor.join().unwrap(), expected);
    }

    #[test]
    fn a_refusal_is_the_monitors_reason() {
        let (_root, folder) = state_folder();
        let socket = ControlSocket::listen(&folder).unwrap();
        let monitor = thread::spawn(move || {
            let (stream, _) = socket.listener().accept().unwrap();
            let _: ControlRequest = frame::read_frame(&stream, 512).unwrap();
            frame::write_frame(&stream, &ControlResponse::Refused("full".to_owned()), 512).unwrap();
        });
        let error = connect_agent(&folder, TIMEOUT).unwrap_err();
        assert_eq!(error.to_string(), "The monitor refused: full");
        monitor.join().unwrap();
    }

    #[test]
    fn of_many_monitors_those_that_hang_hold_up_no_other() {
        let folders: Vec<_> = (0..4).map(|_| state_folder()).collect();
        let sockets: Vec<_> =
            folders[..3].iter().map(|(_, folder)| ControlSocket::listen(folder).unwrap()).collect();
        let metrics = MonitorMetrics { guest_kib: 7, ..MonitorMetrics::default() };
        let answer = ControlResponse::Metrics(metrics.clone());
        let monitor = thread::spawn(move || {
            // The first says nothing, the second begins to, the third answers.
            let (stream, _) = sockets[1].listener().accept().unwrap();
            (&stream).write_all(&[200, 0]).unwrap();
            let (last, _) = sockets[2].listener().accept().unwrap();
            let _: ControlRequest = frame::read_frame(&last, 512).unwrap();
            frame::write_frame(&last, &answer, MAX_CONTROL_ANSWER_BYTES).unwrap();
            (sockets, stream)
        });
        let paths: Vec<_> = folders.iter().map(|(_, folder)| folder.clone()).collect();
        let begun = Instant::now();
        let answers = ask_metrics(&paths, begun + Duration::from_millis(500));
        assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
        assert!(matches!(answers[0], Err(ControlError::Answer(_))), "{answers:?}");
        assert!(matches!(answers[1], Err(ControlError::Answer(_))), "{answers:?}");
        assert_eq!(answers[2].as_ref().unwrap(), &metrics);
        assert!(matches!(answers[3], Err(ControlError::Connect { .. })), "{answers:?}");
        monitor.join().unwrap();
    }

    #[test]
    fn a_monitor_that_is_gone_is_told_by_its_socket() {
        let (_root, folder) = state_folder();
        assert!(matches!(connect_agent(&folder, TIMEOUT), Err(ControlError::Connect { .. })));
    }
}
