//! Terminals: pairs for containers, the user's own in raw mode, and the console socket by which an
//! engine takes a container's terminal over.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{
    OptionalActions, OutputModes, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr,
};

/// Lines and characters in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Both sides of a terminal on the host.
#[derive(Debug)]
pub struct TerminalPair {
    /// For whoever shows it.
    pub master: OwnedFd,
    /// For whoever runs in it. In raw mode: the container's own terminal does what a terminal does.
    pub slave: OwnedFd,
}

impl TerminalPair {
    /// Makes a pair.
    ///
    /// # Errors
    /// When there is no `devpts`, or no terminal left.
    pub fn open(size: Option<WindowSize>) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name, flags, Mode::empty())?;
        let mut attributes = tcgetattr(&slave)?;
        attributes.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &attributes)?;
        if let Some(size) = size {
            set_window_size(master.as_fd(), size)?;
        }
        Ok(Self { master, slave })
    }
}

/// The size of a terminal; none for anything else, and for one that does not know.
#[must_use]
pub fn window_size(terminal: BorrowedFd<'_>) -> Option<WindowSize> {
    let size = tcgetwinsize(terminal).ok()?;
    (size.ws_row != 0 && size.ws_col != 0)
        .then_some(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// Sets a terminal's size; the processes in it are told by `SIGWINCH`.
///
/// # Errors
/// When it is no terminal.
pub fn set_window_size(terminal: BorrowedFd<'_>, size: WindowSize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Lets line feeds through as they are: the terminal at which they are shown adds its own carriage
/// returns. As runc does it for a container whose terminal it relays itself.
///
/// # Errors
/// When it is no terminal.
pub fn keep_line_feeds(master: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = tcgetattr(master)?;
    attributes.output_modes.remove(OutputModes::ONLCR);
    Ok(tcsetattr(master, OptionalActions::Now, &attributes)?)
}

/// The user's terminal in raw mode, until this is dropped: keys go through to the container, which
/// has a terminal of its own to handle them.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Changes the terminal.
    ///
    /// # Errors
    /// When it is none.
    pub fn enter(terminal: BorrowedFd<'_>) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        let mode = Self { terminal: terminal.try_clone_to_owned()?, before };
        mode.restore_on_panic()?;
        tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(mode)
    }

    /// A panic aborts without dropping anything: the user is left with a usable terminal all the
    /// same, and can read the message.
    fn restore_on_panic(&self) -> io::Result<()> {
        let (terminal, before) = (self.terminal.try_clone()?, self.before.clone());
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = tcsetattr(&terminal, OptionalActions::Now, &before);
            report(panic);
        }));
        Ok(())
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// A descriptor could not be handed over.
#[derive(Debug, thiserror::Error)]
#[error("Cannot send {what} to the socket {socket}")]
pub struct HandOverError {
    what: &'static str,
    socket: PathBuf,
    source: io::Error,
}

/// Sends the master side of a terminal to a console socket, with its name beside it as runc does.
///
/// # Errors
/// When nobody listens there.
pub fn send_to_console_socket(socket: &Path, master: BorrowedFd<'_>) -> Result<(), HandOverError> {
    ptsname(master, Vec::new())
        .map_err(io::Error::from)
        .and_then(|name| send(socket, master, name.as_bytes()))
        .map_err(|source| HandOverError {
            what: "the terminal",
            socket: socket.to_path_buf(),
            source,
        })
}

/// Sends a descriptor of a process to the socket of `--pidfd-socket`.
///
/// # Errors
/// When nobody listens there, or the process is gone.
pub fn send_pidfd(socket: &Path, pid: i32) -> Result<(), HandOverError> {
    crate::host::process::open_pidfd(pid)
        .and_then(|pidfd| send(socket, pidfd.as_fd(), b"pidfd"))
        .map_err(|source| HandOverError { what: "the pidfd", socket: socket.to_path_buf(), source })
}

fn send(socket: &Path, descriptor: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(stream, &[IoSlice::new(name)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    const SIZE: WindowSize = WindowSize { rows: 12, columns: 34 };

    #[test]
    fn a_pair_has_the_size_asked_for_on_both_sides() {
        let pair = TerminalPair::open(Some(SIZE)).unwrap();
        assert_eq!(window_size(pair.slave.as_fd()), Some(SIZE));
        assert_eq!(window_size(pair.master.as_fd()), Some(SIZE));
    }

    #[test]
    fn a_terminal_without_size_and_a_file_have_none() {
        let pair = TerminalPair::open(None).unwrap();
        assert_eq!(window_size(pair.slave.as_fd()), None);
        assert_eq!(window_size(tempfile::tempfile().unwrap().as_fd()), None);
    }

    #[test]
    fn raw_mode_ends_with_its_guard() {
        use rustix::termios::LocalModes;
        let pair = TerminalPair::open(None).unwrap();
        let mut cooked = tcgetattr(&pair.slave).unwrap();
        cooked.local_modes |= LocalModes::ECHO;
        tcsetattr(&pair.slave, OptionalActions::Now, &cooked).unwrap();
        let echoes = || tcgetattr(&pair.slave).unwrap().local_modes.contains(LocalModes::ECHO);
        let raw = RawMode::enter(pair.slave.as_fd()).unwrap();
        assert!(!echoes());
        drop(raw);
        assert!(echoes());
    }

    #[test]
    fn a_relayed_terminal_adds_no_carriage_returns() {
        let pair = TerminalPair::open(None).unwrap();
        let mut cooked = tcgetattr(&pair.slave).unwrap();
        cooked.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        tcsetattr(&pair.slave, OptionalActions::Now, &cooked).unwrap();
        keep_line_feeds(pair.master.as_fd()).unwrap();
        rustix::io::write(&pair.slave, b"a\n").unwrap();
        let mut shown = [0; 8];
        let length = rustix::io::read(&pair.master, &mut shown).unwrap();
        assert_eq!(&shown[..length], b"a\n");
    }

    #[test]
    fn a_console_socket_gets_the_master() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let pair = TerminalPair::open(Some(SIZE)).unwrap();
        send_to_console_socket(&path, pair.master.as_fd()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 64];
        let mut parts = [io::IoSliceMut::new(&mut name)];
        recvmsg(&stream, &mut parts, &mut ancillary, RecvFlags::empty()).unwrap();
        let Some(RecvAncillaryMessage::ScmRights(mut received)) = ancillary.drain().next() else {
            panic!("no descriptor")
        };
        assert_eq!(window_size(received.next().unwrap().as_fd()), Some(SIZE));
        assert!(name.starts_with(b"/dev/pts/"));
    }

    #[test]
    fn a_socket_without_listener_is_named() {
        let pair = TerminalPair::open(None).unwrap();
        let error =
            send_to_console_socket(Path::new("/nonexistent/s"), pair.master.as_fd()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/s"));
    }
}
