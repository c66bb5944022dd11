//! The helper process: a second copy of this program that enters the container, so that the caller
//! never does.
//!
//! ```text
//!   caller ── job (memory file) ──▶ helper ──▶ container's process, a child of the caller
//!      ◀──────── reports (pipe, one JSON value a line) ───┴──────────┘
//! ```
//!
//! It has one thread whatever the caller has (forking with more is undefined), its changes of
//! working folder and of OOM score stay its own, and it runs from a file that the container cannot
//! write to ([`super::sealed`]). It lives for milliseconds: it makes the process as a sibling of
//! its own, so that the caller is the parent that can wait for it, and ends.
//!
//! Hostile: nothing that arrives here. The reports come from our own code, the last of them from
//! inside the container before anything of the container's runs.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::job::{Job, ReviveJob};
use super::listener::Listener;
use super::report::{Report, describe};
use super::sealed;
use super::sys;
use crate::host::stdio::ProcessStdio;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::MemfdFlags;
use rustix::io::{Errno, FdFlags};

/// The first argument by which this program knows that it is a helper. No verb of the command
/// line.
pub(super) const ARGUMENT: &str = "namespace-init";

/// A running helper, seen from its caller.
pub(super) struct Helper {
    child: Child,
    reports: BufReader<File>,
    listener: Option<Listener>,
}

/// Descriptors that a helper gets besides its standard streams, at these numbers.
pub(super) struct Passed {
    descriptors: Vec<OwnedFd>,
    first: RawFd,
}

impl Passed {
    /// Numbers from `first` on: those below belong to the container (`--preserve-fds`).
    pub(super) fn new(first: RawFd) -> Self {
        Self { descriptors: Vec::new(), first }
    }

    /// Adds one; its number there.
    pub(super) fn add(&mut self, descriptor: impl std::os::fd::AsFd) -> io::Result<RawFd> {
        let copy = rustix::io::fcntl_dupfd_cloexec(descriptor, self.first)?;
        rustix::io::fcntl_setfd(&copy, FdFlags::empty())?;
        let number = copy.as_raw_fd();
        self.descriptors.push(copy);
        Ok(number)
    }

    fn stay_open(&self) -> io::Result<()> {
        for descriptor in &self.descriptors {
            rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        Ok(())
    }
}

impl Helper {
    /// Starts a helper on a job. `console` is the socket over which it sends a terminal's master
    /// side; the job is told its number.
    ///
    /// # Errors
    /// When a descriptor or a process could not be made.
    pub(super) fn spawn(
        mut job: Job,
        stdio: ProcessStdio,
        console: Option<OwnedFd>,
        listener: Option<(Listener, OwnedFd)>,
        preserved: Preserved,
    ) -> io::Result<Self> {
        let first = 3 + RawFd::try_from(preserved.count).map_err(io::Error::other)?;
        preserved.check(first)?;
        // What whoever called the runtime left open is none of the container's, created or not.
        sys::close_on_exec_from(first.cast_unsigned())?;
        let mut passed = Passed::new(first);
        let console = console.map(|fd| passed.add(fd)).transpose()?;
        let (listener, of_process) = listener.unzip();
        let of_process = of_process.map(|fd| passed.add(fd)).transpose()?;
        match &mut job {
            Job::Construct(job) => (job.console, job.process.listener) = (console, of_process),
            Job::Join(job) => (job.console, job.process.listener) = (console, of_process),
            Job::Revive(_) => {}
        }
        Self::start(&job, stdio, passed, listener)
    }

    /// Starts a helper that becomes CRIU, with its end of a socket and with what it inherits.
    ///
    /// # Errors
    /// When a descriptor or a process could not be made.
    pub(super) fn spawn_reviver(
        mut job: ReviveJob,
        stdio: ProcessStdio,
        socket: OwnedFd,
        mut passed: Passed,
    ) -> io::Result<Self> {
        sys::close_on_exec_from(3)?;
        passed.stay_open()?;
        job.socket = passed.add(socket)?;
        Self::start(&Job::Revive(Box::new(job)), stdio, passed, None)
    }

    fn start(
        job: &Job,
        stdio: ProcessStdio,
        mut passed: Passed,
        listener: Option<Listener>,
    ) -> io::Result<Self> {
        let program = rustix::io::fcntl_dupfd_cloexec(sealed::open()?, passed.first)?;
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let job_number = passed.add(job_file(job)?)?;
        let report_number = passed.add(&write)?;
        drop(write);
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command
            .arg0("cofferdam")
            .arg(ARGUMENT)
            .arg(job_number.to_string())
            .arg(report_number.to_string())
            .arg(std::process::id().to_string());
        connect(&mut command, stdio);
        let child = command.spawn()?;
        drop(passed);
        Ok(Self { child, reports: BufReader::new(File::from(read)), listener })
    }

    /// The next report; `None` when nobody is left who could send one.
    pub(super) fn next_report(&mut self) -> Option<Report> {
        let mut line = String::new();
        loop {
            if let Some(failed) = self.attend_listener() {
                return Some(failed);
            }
            line.clear();
            if self.reports.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            if let Ok(report) = serde_json::from_str(&line) {
                return Some(report);
            }
        }
    }

    /// Until there is something to read of the reports: hands a listener over that is announced.
    /// What went wrong with it.
    fn attend_listener(&mut self) -> Option<Report> {
        while self.reports.buffer().is_empty() {
            let listener = self.listener.as_mut()?;
            let mut polled = [
                PollFd::from_borrowed_fd(listener.socket(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.reports.get_ref().as_fd(), PollFlags::IN),
            ];
            match poll(&mut polled, None) {
                Ok(_) if polled[0].revents().contains(PollFlags::IN) => {}
                Err(Errno::INTR) => continue,
                Ok(_) | Err(_) => return None,
            }
            let failed = listener.hand_over().err();
            self.listener = None;
            if let Some(e) = failed {
                return Some(Report::Failed { kind: None, message: describe(&e) });
            }
        }
        None
    }

    /// Ends it, whatever it is at.
    pub(super) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
    }

    /// Waits for the helper's own end.
    pub(super) fn join(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

/// The descriptors after the standard streams that are to reach the container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Preserved {
    pub(super) count: u32,
    /// Else each must be open, as runc has it.
    pub(super) may_be_closed: bool,
}

impl Preserved {
    fn check(self, first: RawFd) -> io::Result<()> {
        match (3..first).find(|number| !sys::is_open(*number)) {
            Some(missing) if self.may_be_closed => {
                tracing::debug!("Descriptor {missing} of --preserve-fds is not open");
                Ok(())
            }
            Some(missing) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("Descriptor {missing} of --preserve-fds is not open"),
            )),
            None => Ok(()),
        }
    }
}

/// Takes the numbers of preserved descriptors that are not open, so that nothing of the runtime's
/// own gets one and reaches the container by it. They are closed when its program is executed.
pub(super) fn reserve(preserve_fds: u32) -> io::Result<()> {
    let first = 3 + RawFd::try_from(preserve_fds).map_err(io::Error::other)?;
    let null = rustix::io::fcntl_dupfd_cloexec(File::open("/dev/null")?, first)?;
    for number in (3..first).filter(|number| !sys::is_open(*number)) {
        // For as long as this process and those that it makes are no other programs.
        std::mem::forget(rustix::io::fcntl_dupfd_cloexec(&null, number)?);
    }
    Ok(())
}

fn job_file(job: &Job) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("job", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(job)?)?;
    file.rewind()?;
    Ok(file.into())
}

fn connect(command: &mut Command, stdio: ProcessStdio) {
    let stream = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
    match stdio {
        ProcessStdio::Inherit { stdin, stdout, stderr } => {
            command.stdin(stream(stdin)).stdout(stream(stdout)).stderr(stream(stderr));
        }
        ProcessStdio::Terminal { .. } => {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        }
    }
}
