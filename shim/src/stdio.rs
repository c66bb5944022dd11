//! A process's standard streams: what containerd names, opened.
//!
//! Output goes from the container into containerd's FIFO without the shim in between; the shim keeps
//! the FIFO open, so that a container outlives a client that goes away. Input is relayed, because
//! an engine closes it by a call. A terminal's two directions are relayed both.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::libc::{O_CLOEXEC, O_NONBLOCK};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::relay::Relay;

/// How long the last of a terminal's output may take when its process has ended: another process
/// may hold the terminal for as long as it likes.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// The streams as containerd names them; empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// A FIFO.
    pub(crate) stdin: String,
    /// A FIFO or a URL.
    pub(crate) stdout: String,
    /// As [`Self::stdout`]; a terminal has none.
    pub(crate) stderr: String,
    /// Whether they are a terminal's.
    pub(crate) terminal: bool,
}

/// Why a stream is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdioError {
    /// It is a scheme of nobody's.
    #[error("Output to {0} is not supported: a FIFO and file:// are possible")]
    Scheme(String),
    /// It cannot be opened.
    #[error("Cannot open {0}")]
    Open(PathBuf, #[source] io::Error),
    /// No pipe, or no thread.
    #[error("Cannot relay a stream")]
    Relay(#[from] io::Error),
}

/// What the runtime inherits.
#[derive(Debug)]
pub(crate) struct ChildStreams {
    /// Descriptor 0.
    pub(crate) stdin: Stdio,
    /// Descriptor 1.
    pub(crate) stdout: Stdio,
    /// Descriptor 2.
    pub(crate) stderr: Stdio,
}

/// What the shim has of a process's streams while it runs.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// FIFOs, held open.
    held: Vec<File>,
    input: Option<Relay>,
    output: Option<Relay>,
    terminal: Option<OwnedFd>,
}

/// Where output goes.
enum Output {
    Nowhere,
    Fifo(PathBuf),
    File(PathBuf),
}

impl Output {
    fn of(name: &str) -> Result<Self, StdioError> {
        match name.split_once("://") {
            None if name.is_empty() => Ok(Self::Nowhere),
            None => Ok(Self::of_path(name.into())),
            Some(("fifo", path)) => Ok(Self::of_path(path.into())),
            Some(("file", path)) => Ok(Self::File(path.into())),
            Some((scheme, _)) => Err(StdioError::Scheme(format!("{scheme}://"))),
        }
    }

    fn of_path(path: PathBuf) -> Self {
        match path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            true => Self::Fifo(path),
            false => Self::File(path),
        }
    }

    /// To write to; a FIFO is also held.
    fn open(self, held: &mut Vec<File>) -> Result<Option<File>, StdioError> {
        let failed = |path: &Path, error| StdioError::Open(path.to_owned(), error);
        match self {
            Self::Nowhere => Ok(None),
            Self::Fifo(path) => {
                // Open for both, it waits for no reader.
                let both = File::options().read(true).write(true).open(&path);
                held.push(both.map_err(|error| failed(&path, error))?);
                File::options().write(true).open(&path).map(Some).map_err(|e| failed(&path, e))
            }
            Self::File(path) => File::options()
                .append(true)
                .create(true)
                .open(&path)
                .map(Some)
                .map_err(|error| failed(&path, error)),
        }
    }
}

impl Names {
    /// Opens what is no terminal's.
    ///
    /// # Errors
    /// The first that cannot be opened.
    pub(crate) fn open(&self) -> Result<(ChildStreams, Streams), StdioError> {
        let mut streams = Streams::default();
        let stdin = match self.stdin.is_empty() {
            true => Stdio::null(),
            false => {
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
                streams.input = Some(Relay::start(self.open_input()?, writer)?);
                reader.into()
            }
        };
        let stdout = Output::of(&self.stdout)?.open(&mut streams.held)?;
        let stderr = Output::of(&self.stderr)?.open(&mut streams.held)?;
        let child = ChildStreams {
            stdin,
            stdout: stdout.map_or_else(Stdio::null, Stdio::from),
            stderr: stderr.map_or_else(Stdio::null, Stdio::from),
        };
        Ok((child, streams))
    }

    /// Connects a terminal's master side.
    ///
    /// # Errors
    /// A FIFO that cannot be opened.
    pub(crate) fn connect(&self, master: OwnedFd) -> Result<Streams, StdioError> {
        let mut streams = Streams::default();
        if !self.stdin.is_empty() {
            let to = master.try_clone()?;
            streams.input = Some(Relay::start(self.open_input()?, to)?);
        }
        let to = match Output::of(&self.stdout)?.open(&mut streams.held)? {
            Some(file) => file,
            None => File::options().write(true).open("/dev/null")?,
        };
        streams.output = Some(Relay::start(master.try_clone()?, to.into())?);
        streams.terminal = Some(master);
        Ok(streams)
    }

    /// It may have no writer yet: the relay's first read waits for one.
    fn open_input(&self) -> Result<OwnedFd, StdioError> {
        let opened =
            File::options().read(true).custom_flags(O_NONBLOCK | O_CLOEXEC).open(&self.stdin);
        opened.map(OwnedFd::from).map_err(|error| StdioError::Open((&self.stdin).into(), error))
    }
}

impl ChildStreams {
    /// For a program whose terminal comes over a socket.
    pub(crate) fn none() -> Self {
        Self { stdin: Stdio::null(), stdout: Stdio::null(), stderr: Stdio::null() }
    }
}

impl Streams {
    /// No input any more, after what was sent before.
    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// The size of its terminal, if it has one.
    ///
    /// # Errors
    /// The terminal refuses.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(terminal.as_fd(), size)?)
    }

    /// Lets the last output out and closes everything.
    pub(crate) async fn finish(mut self) {
        if let Some(output) = &mut self.output {
            let _ = tokio::time::timeout(LAST_OUTPUT, output.over()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::reaper::CHILDREN_OF_TESTS;

    fn fifo(folder: &Path, name: &str) -> String {
        let path = folder.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn output_goes_into_a_fifo_without_a_reader_and_ends_when_the_shim_lets_go() {
        let _alone = CHILDREN_OF_TESTS.blocking_lock();
        let folder = tempfile::tempdir().unwrap();
        let stdout = fifo(folder.path(), "out");
        let names = Names { stdout: stdout.clone(), ..Names::default() };
        let (child, streams) = names.open().unwrap();
        let mut echo = std::process::Command::new("echo");
        echo.arg("said").stdout(child.stdout).status().unwrap();
        drop(echo);
        let reader = File::options().read(true).custom_flags(O_NONBLOCK).open(&stdout).unwrap();
        drop(streams);
        let mut text = String::new();
        (&reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "said\n");
    }

    #[test]
    fn input_ends_when_it_is_closed_though_the_fifo_has_a_writer() {
        let _alone = CHILDREN_OF_TESTS.blocking_lock();
        let folder = tempfile::tempdir().unwrap();
        let stdin = fifo(folder.path(), "in");
        let names = Names { stdin: stdin.clone(), ..Names::default() };
        let (child, mut streams) = names.open().unwrap();
        let mut writer = File::options().write(true).open(&stdin).unwrap();
        io::Write::write_all(&mut writer, b"typed").unwrap();
        let mut cat = std::process::Command::new("cat");
        let cat = cat.stdin(child.stdin).stdout(Stdio::piped()).spawn().unwrap();
        streams.close_input();
        assert_eq!(cat.wait_with_output().unwrap().stdout, b"typed");
    }

    #[test]
    fn a_scheme_that_nobody_serves_is_refused_by_its_name() {
        let names = Names { stdout: "binary:///bin/log".into(), ..Names::default() };
        let error = names.open().unwrap_err();
        assert!(error.to_string().contains("binary://"), "{error}");
    }
}
