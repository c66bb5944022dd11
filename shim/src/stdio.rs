//! A process's standard streams: what containerd names, opened.
//!
//! Output goes from the container into containerd's FIFO without the shim in between; the shim keeps
//! the FIFO open, so that a container outlives a client that goes away. Input is relayed, because
//! an engine closes it by a call. A terminal's two directions are relayed both.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::libc::{O_CLOEXEC, O_NONBLOCK};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::logger::{Logged, Logger, LoggerError};
use crate::output::{Output, OutputError};
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
    /// It is nothing that output can go to.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Who is to log does not.
    #[error(transparent)]
    Logger(#[from] LoggerError),
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
    loggers: Vec<Logger>,
}

/// Where a process's output is written to; none: nowhere.
#[derive(Debug)]
pub(crate) struct Outputs {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Names {
    /// Opens what the process's output goes to, or starts the program that logs it.
    ///
    /// # Errors
    /// The first that cannot be opened, or does not come up.
    pub(crate) async fn outputs(
        &self,
        logged: Logged<'_>,
        streams: &mut Streams,
    ) -> Result<Outputs, StdioError> {
        let (stdout, stderr) = (Output::of(&self.stdout)?, Output::of(&self.stderr)?);
        // One program logs both, as in containerd, unless the other goes elsewhere.
        if let Output::Program(program) = &stdout
            && (stderr == stdout || stderr == Output::Nowhere)
        {
            let (logger, [stdout, stderr]) = logged.start(program).await?;
            streams.loggers.push(logger);
            return Ok(Outputs { stdout: Some(stdout), stderr: Some(stderr) });
        }
        Ok(Outputs {
            stdout: streams.open(stdout, logged, |[stdout, _]| stdout).await?,
            stderr: streams.open(stderr, logged, |[_, stderr]| stderr).await?,
        })
    }

    /// What a process without a terminal inherits.
    ///
    /// # Errors
    /// The input cannot be opened.
    pub(crate) fn inherited(
        &self,
        outputs: Outputs,
        streams: &mut Streams,
    ) -> Result<ChildStreams, StdioError> {
        let stdin = match self.stdin.is_empty() {
            true => Stdio::null(),
            false => {
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
                streams.input = Some(Relay::start(self.open_input()?, writer)?);
                reader.into()
            }
        };
        Ok(ChildStreams {
            stdin,
            stdout: outputs.stdout.map_or_else(Stdio::null, Stdio::from),
            stderr: outputs.stderr.map_or_else(Stdio::null, Stdio::from),
        })
    }

    /// Connects a terminal's master side.
    ///
    /// # Errors
    /// The input cannot be opened.
    pub(crate) fn connect(
        &self,
        master: OwnedFd,
        outputs: Outputs,
        streams: &mut Streams,
    ) -> Result<(), StdioError> {
        if !self.stdin.is_empty() {
            let to = master.try_clone()?;
            streams.input = Some(Relay::start(self.open_input()?, to)?);
        }
        let to = match outputs.stdout {
            Some(output) => output,
            None => File::options().write(true).open("/dev/null")?.into(),
        };
        streams.output = Some(Relay::start(master.try_clone()?, to)?);
        streams.terminal = Some(master);
        Ok(())
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
    /// To write to; a FIFO is also held, and of a logger's two pipes one is used.
    async fn open(
        &mut self,
        output: Output,
        logged: Logged<'_>,
        choose: fn([OwnedFd; 2]) -> OwnedFd,
    ) -> Result<Option<OwnedFd>, StdioError> {
        let failed = |path: &Path, error| StdioError::Open(path.to_owned(), error);
        match output {
            Output::Nowhere => Ok(None),
            Output::Fifo(path) => {
                // Open for both, it waits for no reader.
                let both = File::options().read(true).write(true).open(&path);
                self.held.push(both.map_err(|error| failed(&path, error))?);
                let file = File::options().write(true).open(&path);
                Ok(Some(file.map_err(|error| failed(&path, error))?.into()))
            }
            Output::File(path) => {
                let file = append_to(&path).map_err(|error| failed(&path, error))?;
                Ok(Some(file.into()))
            }
            Output::Program(program) => {
                let (logger, pipes) = logged.start(&program).await?;
                self.loggers.push(logger);
                Ok(Some(choose(pipes)))
            }
        }
    }

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

    /// Lets the last output out and closes everything; those who still write it down.
    pub(crate) async fn finish(mut self) -> Vec<Logger> {
        if let Some(output) = &mut self.output {
            let _ = tokio::time::timeout(LAST_OUTPUT, output.over()).await;
        }
        self.loggers
    }
}

/// As containerd makes it: with its folders, and for everybody to read.
fn append_to(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    File::options().append(true).create(true).mode(0o644).open(path)
}

#[cfg(test)]
impl Names {
    /// What a process of a test's inherits, and the rest.
    pub(crate) async fn open(&self, bundle: &Path) -> Result<(ChildStreams, Streams), StdioError> {
        let (mut streams, reaper) = (Streams::default(), std::sync::Arc::default());
        let logged = Logged { reaper: &reaper, namespace: "", container_id: "", bundle };
        let outputs = self.outputs(logged, &mut streams).await?;
        Ok((self.inherited(outputs, &mut streams)?, streams))
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

    #[tokio::test]
    async fn output_goes_into_a_fifo_without_a_reader_and_ends_when_the_shim_lets_go() {
        let _alone = CHILDREN_OF_TESTS.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let stdout = fifo(folder.path(), "out");
        let names = Names { stdout: stdout.clone(), ..Names::default() };
        let (child, streams) = names.open(folder.path()).await.unwrap();
        let mut echo = std::process::Command::new("echo");
        echo.arg("said").stdout(child.stdout).status().unwrap();
        drop(echo);
        let reader = File::options().read(true).custom_flags(O_NONBLOCK).open(&stdout).unwrap();
        drop(streams);
        let mut text = String::new();
        (&reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "said\n");
    }

    #[tokio::test]
    async fn input_ends_when_it_is_closed_though_the_fifo_has_a_writer() {
        let _alone = CHILDREN_OF_TESTS.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let stdin = fifo(folder.path(), "in");
        let names = Names { stdin: stdin.clone(), ..Names::default() };
        let (child, mut streams) = names.open(folder.path()).await.unwrap();
        let mut writer = File::options().write(true).open(&stdin).unwrap();
        io::Write::write_all(&mut writer, b"typed").unwrap();
        let mut cat = std::process::Command::new("cat");
        let cat = cat.stdin(child.stdin).stdout(Stdio::piped()).spawn().unwrap();
        streams.close_input();
        assert_eq!(cat.wait_with_output().unwrap().stdout, b"typed");
    }

    #[tokio::test]
    async fn a_file_is_made_with_its_folders_and_both_streams_go_to_its_end() {
        let _alone = CHILDREN_OF_TESTS.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/er/log");
        let uri = format!("file://{}", file.display());
        let names = Names { stdout: uri.clone(), stderr: uri, ..Names::default() };
        for _ in 0..2 {
            let (child, _streams) = names.open(folder.path()).await.unwrap();
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", "echo said; echo wrong >&2"]);
            shell.stdout(child.stdout).stderr(child.stderr).status().unwrap();
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "said\nwrong\nsaid\nwrong\n");
    }
}
