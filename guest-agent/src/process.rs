//! One process that the host knows by its token: an init, or one more process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cofferdam_protocol::id::{ContainerId, ProcessToken};
use tokio::sync::watch;

use crate::streams::Streams;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// As a shell has it.
    pub code: u8,
    /// The OOM killer ended a process of its container.
    pub oom: bool,
}

/// A process that runs, or has ended and whose output is on its way.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) token: ProcessToken,
    pub(crate) container: ContainerId,
    /// In the agent's pid namespace. For looking at only: signals go through the descriptor.
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) streams: Streams,
    /// Told when its output is sent.
    pub(crate) exit: watch::Sender<Option<Exit>>,
}

impl Process {
    /// False: it had ended.
    pub(crate) fn signal(&self, signal: u32) -> io::Result<bool> {
        crate::sys::send_signal(self.pidfd.as_fd(), signal)
    }

    /// How it ended, when it has, and everything that it wrote is sent.
    pub(crate) async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        // It holds the sender itself: the channel cannot close before.
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        ended.unwrap_or(Exit { code: u8::MAX, oom: false })
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
