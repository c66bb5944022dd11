//! A program that logs what a process writes, as an engine names it by `binary://`.
//!
//! ```text
//!  shim ──spawn──▶ logger: 3 = stdout, 4 = stderr, 5 = "ready"
//!    │                │ closes 5: the process is made, and writes into the pipes itself
//!    │ process ended  ▼
//!    └─ end ────────▶ reads to the end and exits; who does not is ended
//! ```
//!
//! The program that is started is the logger: one that leaves its work to another process and exits
//! has ended. Where it ends before its container does, what is written from then on is lost, and
//! the container goes on.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::Timespec;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::output::LoggingProgram;
use crate::reaper::{Exit, Reaper};
use crate::relay::Relay;
use crate::sys;

/// How long it may take until it is ready, as in containerd.
const READY: Duration = Duration::from_secs(10);
/// How long it may take to write down what it was given, when that has ended.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How long it may go on after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);
/// Both where the shim is gone: containerd gives `delete` five seconds for everything.
const HURRY: Duration = Duration::from_secs(1);

/// Beyond every descriptor that a logger is given.
const OUT_OF_THE_WAY: i32 = 10;

/// A file of the bundle's for each logger, named after its number: it holds when that began.
const RECORD: &str = "logger-";

/// What is told of a process to those that log it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logged<'a> {
    /// Who waits for loggers.
    pub(crate) reaper: &'a Arc<Reaper>,
    /// containerd's namespace.
    pub(crate) namespace: &'a str,
    /// The container.
    pub(crate) container_id: &'a str,
    /// Its folder, and the working folder of its loggers.
    pub(crate) bundle: &'a Path,
}

/// Why there is no logger. None is left then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoggerError {
    /// It is not there, or is no program.
    #[error("Cannot run the logging program {0}")]
    Run(PathBuf, #[source] io::Error),
    /// It gave up.
    #[error("The logging program {program} ended with code {code} before it was ready")]
    Ended {
        /// Its path.
        program: PathBuf,
        /// Its code, or 128 and the signal.
        code: u32,
    },
    /// It does not know what is expected of it.
    #[error(
        "The logging program {0} was not ready after {seconds} s: it closes descriptor 5 when it is",
        seconds = READY.as_secs()
    )]
    Late(PathBuf),
    /// As `binary-v2` expects it.
    #[error("The logging program {0} closed descriptor 5 without writing a byte: it is not ready")]
    Silent(PathBuf),
    /// No pipe.
    #[error("Cannot connect the logging program {0}")]
    Connect(PathBuf, #[source] io::Error),
}

/// A logger that runs. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Logger {
    reaper: Arc<Reaper>,
    pid: i32,
    record: PathBuf,
    over: oneshot::Receiver<()>,
}

/// A pipe's two ends.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self { reader, writer })
    }
}

impl Logged<'_> {
    /// Starts a logger and waits until it is ready; where to write, stdout's first.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) async fn start(
        &self,
        program: &LoggingProgram,
    ) -> Result<(Logger, [OwnedFd; 2]), LoggerError> {
        self.start_within(READY, program).await
    }

    async fn start_within(
        &self,
        patience: Duration,
        program: &LoggingProgram,
    ) -> Result<(Logger, [OwnedFd; 2]), LoggerError> {
        let failed = |error| LoggerError::Connect(program.path.clone(), error);
        let [stdout, stderr, ready] =
            [Pipe::new(), Pipe::new(), Pipe::new()].map(|pipe| pipe.map_err(failed));
        let (stdout, stderr, ready) = (stdout?, stderr?, ready?);
        let expectation = self.reaper.expect();
        let given = [&stdout.reader, &stderr.reader, &ready.writer];
        let pid = self.spawn(program, given)?;
        let mut exit = expectation.claim(pid);
        drop(expectation);
        let record = self.bundle.join(format!("{RECORD}{pid}"));
        let (sender, over) = oneshot::channel();
        let logger = Logger { reaper: self.reaper.clone(), pid, record, over };
        logger.save().map_err(failed)?;
        drop(ready.writer);
        let ready = until_ready(program, pid, ready.reader, &mut exit);
        let late = |_| LoggerError::Late(program.path.clone());
        timeout(patience, ready).await.map_err(late)??;
        let outputs = [stdout.reader, stderr.reader];
        tokio::spawn(attend(program.path.clone(), exit, outputs, sender));
        Ok((logger, [stdout.writer, stderr.writer]))
    }

    fn spawn(&self, program: &LoggingProgram, given: [&OwnedFd; 3]) -> Result<i32, LoggerError> {
        // The pipes themselves have the lowest numbers, so that nothing else is replaced there.
        let moved = given.map(|one| rustix::io::fcntl_dupfd_cloexec(one, OUT_OF_THE_WAY));
        let moved: Result<Vec<OwnedFd>, _> = moved.into_iter().collect();
        let moved = moved.map_err(|e| LoggerError::Connect(program.path.clone(), e.into()))?;
        let mut command = Command::new(&program.path);
        command
            .args(&program.arguments)
            .env_clear()
            .env("CONTAINER_ID", self.container_id)
            .env("CONTAINER_NAMESPACE", self.namespace)
            .current_dir(self.bundle)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        sys::inherit(&mut command, moved);
        let child = command.spawn();
        let child = child.map_err(|error| LoggerError::Run(program.path.clone(), error))?;
        Ok(child.id().cast_signed())
    }
}

async fn until_ready(
    program: &LoggingProgram,
    pid: i32,
    ready: OwnedFd,
    exit: &mut oneshot::Receiver<Exit>,
) -> Result<(), LoggerError> {
    let failed = |error| LoggerError::Connect(program.path.clone(), error);
    let ended = |exit: Result<Exit, _>| LoggerError::Ended {
        program: program.path.clone(),
        code: exit.map_or(0, |exit: Exit| exit.code),
    };
    let mut ready = pipe::Receiver::from_owned_fd(ready).map_err(failed)?;
    let mut byte = [0];
    let written = tokio::select! {
        biased;
        read = ready.read(&mut byte) => read.map_err(failed)? > 0,
        exit = &mut *exit => return Err(ended(exit)),
    };
    match written {
        true => Ok(()),
        false if is_ending(pid) => Err(ended(exit.await)),
        false if program.writes_when_ready => Err(LoggerError::Silent(program.path.clone())),
        false => Ok(()),
    }
}

/// Who ends has let go of all descriptors before the last of them is closed; a logger has some.
fn is_ending(pid: i32) -> bool {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(true, |mut open| open.next().is_none())
}

/// Waits for a logger's end, and then reads in its place: a container does not end with its logger.
async fn attend(
    program: PathBuf,
    exit: oneshot::Receiver<Exit>,
    outputs: [OwnedFd; 2],
    over: oneshot::Sender<()>,
) {
    let exit = exit.await;
    // Nobody may wait for it.
    let _ = over.send(());
    let written: Vec<OwnedFd> = outputs.into_iter().filter(is_written_to).collect();
    let (Ok(exit), false) = (exit, written.is_empty()) else { return };
    let program = program.display();
    tracing::error!("{program} ended with code {}: what it was to log is lost", exit.code);
    let mut drains: Vec<Relay> = written.into_iter().filter_map(|one| drain(one).ok()).collect();
    for drain in &mut drains {
        drain.over().await;
    }
}

fn is_written_to(reader: &OwnedFd) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(reader.as_fd(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // When it cannot be told, somebody may write.
    poll(&mut polled, Some(&now)).is_err() || !polled[0].revents().contains(PollFlags::HUP)
}

fn drain(reader: OwnedFd) -> io::Result<Relay> {
    rustix::io::ioctl_fionbio(&reader, true)?;
    Relay::start(reader, fs::File::options().write(true).open("/dev/null")?.into())
}

impl Logger {
    /// For whoever has to end it when the shim is gone.
    fn save(&self) -> io::Result<()> {
        let began = began(self.pid).ok_or(io::ErrorKind::NotFound)?;
        fs::write(&self.record, began.to_string())
    }

    /// Lets it read to the end, and ends it when that takes too long.
    pub(crate) async fn end(mut self) {
        for (patience, signal) in [(LAST_WORDS, Signal::SIGTERM), (GRACE, Signal::SIGKILL)] {
            if timeout(patience, &mut self.over).await.is_ok() {
                return;
            }
            // It may have ended.
            let _ = self.reaper.signal(self.pid, signal);
        }
        let _ = timeout(GRACE, &mut self.over).await;
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        // It has ended, mostly.
        let _ = self.reaper.signal(self.pid, Signal::SIGKILL);
        let _ = fs::remove_file(&self.record);
    }
}

/// Ends the loggers of a bundle whose shim is gone, as [`Logger::end`] does, and in a hurry.
pub(crate) fn end_all(bundle: &Path) {
    for entry in fs::read_dir(bundle).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        // What else is there is not read: the shim's log is a FIFO without a writer.
        let pid = name.to_str().and_then(|name| name.strip_prefix(RECORD)?.parse().ok());
        let Some(pid) = pid else { continue };
        let at = fs::read_to_string(entry.path()).ok().and_then(|began| began.parse().ok());
        if let Some(at) = at {
            end_one(pid, at);
        }
    }
}

/// The process that has this number, if it is the one that began then.
fn end_one(pid: i32, at: u64) {
    let Some(number) = rustix::process::Pid::from_raw(pid) else { return };
    let opened = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty());
    let Ok(process) = opened else { return };
    // What was opened is what this number is from here on.
    if began(pid) != Some(at) {
        return;
    }
    let signals = [rustix::process::Signal::TERM, rustix::process::Signal::KILL];
    for signal in signals {
        if has_ended(&process, HURRY) {
            return;
        }
        let _ = rustix::process::pidfd_send_signal(&process, signal);
    }
}

fn has_ended(process: &OwnedFd, patience: Duration) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    let patience = Timespec::try_from(patience).ok();
    poll(&mut polled, patience.as_ref()).is_ok_and(|ended| ended > 0)
}

/// When a process began, in the kernel's ticks since boot: with its number, its name for good.
fn began(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name may have blanks and brackets; the field is the 20th after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    use std::time::Instant;

    use tempfile::TempDir;

    use super::*;
    use crate::reaper::CHILDREN_OF_TESTS;

    /// Ready when it closes descriptor 5.
    const HONEST: &str = "echo $CONTAINER_NAMESPACE $CONTAINER_ID $* >log; exec 5>&-; \
                          cat <&3 >>log; cat <&4 >>log; sleep 0.1; echo end >>log";

    struct Bench {
        folder: TempDir,
        reaper: Arc<Reaper>,
    }

    impl Bench {
        fn new() -> Self {
            let (folder, reaper) = (tempfile::tempdir().unwrap(), Arc::new(Reaper::default()));
            let collecting = Arc::downgrade(&reaper);
            tokio::spawn(async move {
                while let Some(reaper) = collecting.upgrade() {
                    reaper.collect();
                    drop(reaper);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            Self { folder, reaper }
        }

        fn program(&self, script: &str) -> LoggingProgram {
            let path = self.folder.path().join("logger.sh");
            let mut file =
                fs::File::options().write(true).create(true).truncate(true).mode(0o700).open(&path);
            writeln!(file.as_mut().unwrap(), "#!/bin/sh\n{script}").unwrap();
            LoggingProgram {
                path,
                arguments: vec!["--key".into(), "value".into()],
                writes_when_ready: false,
            }
        }

        async fn start(
            &self,
            patience: Duration,
            program: &LoggingProgram,
        ) -> Result<(Logger, [OwnedFd; 2]), LoggerError> {
            let logged = Logged {
                reaper: &self.reaper,
                namespace: "moby",
                container_id: "a",
                bundle: self.folder.path(),
            };
            logged.start_within(patience, program).await
        }

        /// Nobody runs in the folder, and nobody is written down there.
        async fn nobody_is_left(&self) {
            let end = Instant::now() + READY;
            while self.is_somebody_left() {
                assert!(Instant::now() < end, "a logger is left");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }

        fn is_somebody_left(&self) -> bool {
            let names =
                fs::read_dir(self.folder.path()).unwrap().map(|one| one.unwrap().file_name());
            let is_recorded = names.into_iter().any(|name| name.to_string_lossy().contains(RECORD));
            let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
            let mut folders =
                processes.filter_map(|one| fs::read_link(one.path().join("cwd")).ok());
            is_recorded || folders.any(|folder| folder == self.folder.path())
        }
    }

    #[tokio::test]
    async fn a_logger_knows_whom_it_logs_and_has_written_everything_when_it_has_ended() {
        let _alone = CHILDREN_OF_TESTS.lock().await;
        let bench = Bench::new();
        let (logger, [stdout, stderr]) = bench.start(READY, &bench.program(HONEST)).await.unwrap();
        fs::File::from(stdout).write_all(b"said\n").unwrap();
        fs::File::from(stderr).write_all(b"wrong\n").unwrap();
        logger.end().await;
        let log = fs::read_to_string(bench.folder.path().join("log")).unwrap();
        assert_eq!(log, "moby a --key value\nsaid\nwrong\nend\n");
        bench.nobody_is_left().await;
    }

    #[tokio::test]
    async fn who_ends_before_it_is_ready_is_named_with_its_code() {
        let _alone = CHILDREN_OF_TESTS.lock().await;
        let bench = Bench::new();
        let error = bench.start(READY, &bench.program("exit 7")).await.unwrap_err();
        assert!(matches!(error, LoggerError::Ended { code: 7, .. }), "{error}");
        let absent = LoggingProgram { path: "/nosuch".into(), ..bench.program("") };
        let error = bench.start(READY, &absent).await.unwrap_err();
        assert!(matches!(error, LoggerError::Run(..)), "{error}");
        let mut strict = bench.program("exec 5>&-; exec sleep 1000");
        strict.writes_when_ready = true;
        let error = bench.start(READY, &strict).await.unwrap_err();
        assert!(matches!(error, LoggerError::Silent(..)), "{error}");
        bench.nobody_is_left().await;
    }

    #[tokio::test]
    async fn who_is_never_ready_is_given_up_and_killed() {
        let _alone = CHILDREN_OF_TESTS.lock().await;
        let bench = Bench::new();
        let stubborn = bench.program("trap '' TERM; while :; do sleep 1; done");
        let error = bench.start(Duration::from_millis(50), &stubborn).await.unwrap_err();
        assert!(matches!(error, LoggerError::Late(..)), "{error}");
        bench.nobody_is_left().await;
    }

    #[tokio::test]
    async fn who_writes_goes_on_when_its_logger_has_ended() {
        let _alone = CHILDREN_OF_TESTS.lock().await;
        let bench = Bench::new();
        let program = bench.program("printf x >&5; head -c 1 <&3 >log; exit 1");
        let (_logger, [stdout, _stderr]) = bench.start(READY, &program).await.unwrap();
        // More than a pipe holds, and nobody takes it.
        let written = tokio::task::spawn_blocking(move || {
            fs::File::from(stdout).write_all(&vec![b'x'; 1 << 20])
        });
        timeout(READY, written).await.unwrap().unwrap().unwrap();
        assert_eq!(fs::read(bench.folder.path().join("log")).unwrap(), b"x");
    }

    #[tokio::test]
    async fn loggers_whose_shim_is_gone_are_ended_and_nobody_who_has_their_number() {
        let _alone = CHILDREN_OF_TESTS.lock().await;
        let bench = Bench::new();
        let program = bench.program("exec 5>&-; cat <&3; cat <&4; echo read >log");
        let (logger, pipes) = bench.start(READY, &program).await.unwrap();
        let other = bench.folder.path().join(format!("{RECORD}{}", std::process::id()));
        fs::write(&other, "1").unwrap();
        drop(pipes);
        let log = bench.folder.path().join("shim-log");
        nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
        end_all(bench.folder.path());
        assert_eq!(fs::read(bench.folder.path().join("log")).unwrap(), b"read\n");
        drop(logger);
        fs::remove_file(other).unwrap();
        bench.nobody_is_left().await;
    }
}
