//! A process's standard streams: pipes, with one end in the process and one in the agent.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cofferdam_protocol::plan::StdioPlan;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

/// What the new process gets. Where there is none, it gets `/dev/null`.
#[derive(Debug, Default)]
pub(crate) struct ChildStreams {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// What the agent keeps, not blocking.
#[derive(Debug, Default)]
pub(crate) struct AgentStreams {
    /// Where its input is written.
    pub(crate) stdin: Option<OwnedFd>,
    /// Where its output is read.
    pub(crate) stdout: Option<OwnedFd>,
    /// Where its errors are read.
    pub(crate) stderr: Option<OwnedFd>,
    /// The master side of its terminal, which the process itself opens and hands over.
    pub(crate) terminal: Option<OwnedFd>,
}

/// Makes the pipes of a plan. A terminal needs none.
pub(crate) fn pipes(plan: StdioPlan) -> io::Result<(AgentStreams, ChildStreams)> {
    let (mut agent, mut child) = (AgentStreams::default(), ChildStreams::default());
    let StdioPlan::Pipes { stdin, stdout, stderr } = plan else { return Ok((agent, child)) };
    if stdin {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        (agent.stdin, child.stdin) = (Some(writer), Some(reader));
    }
    if stdout {
        (agent.stdout, child.stdout) = output()?;
    }
    if stderr {
        (agent.stderr, child.stderr) = output()?;
    }
    Ok((agent, child))
}

fn output() -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((Some(reader), Some(writer)))
}

impl ChildStreams {
    /// Gives them to a user, so that it can open them again by `/dev/stdout` and its like.
    pub(crate) fn give_to(&self, uid: u32) -> io::Result<()> {
        let user = rustix::fs::Uid::from_raw(uid);
        let streams = [&self.stdin, &self.stdout, &self.stderr];
        for stream in streams.into_iter().flatten() {
            rustix::fs::fchown(stream, Some(user), None)?;
        }
        Ok(())
    }

    /// Makes them this process's descriptors 0, 1 and 2. Before it leaves the agent's root.
    pub(crate) fn become_standard(&self) -> io::Result<()> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
        let null = rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty())?;
        let or_null = |stream: &'_ Option<OwnedFd>| match stream {
            Some(stream) => rustix::io::fcntl_dupfd_cloexec(stream, 3),
            None => rustix::io::fcntl_dupfd_cloexec(&null, 3),
        };
        rustix::stdio::dup2_stdin(or_null(&self.stdin)?.as_fd())?;
        rustix::stdio::dup2_stdout(or_null(&self.stdout)?.as_fd())?;
        Ok(rustix::stdio::dup2_stderr(or_null(&self.stderr)?.as_fd())?)
    }
}
