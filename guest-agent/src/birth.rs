//! A process on its way from its making to its program.

use tokio::sync::oneshot;

use crate::inside::channel::{AgentEnd, Message};
use crate::inside::failure::{StartError, Step};
use crate::stdio::AgentStreams;
use crate::sys::{Child, send_signal};
use std::os::fd::{AsFd, OwnedFd};

/// How far a process can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits for the start.
    Ready,
    /// It has become its program.
    Executing,
}

/// A process that is not its program yet.
#[derive(Debug)]
pub(crate) struct Birth {
    child: Child,
    exit: oneshot::Receiver<u8>,
    channel: AgentEnd,
    streams: AgentStreams,
}

impl Birth {
    pub(crate) fn new(
        child: Child,
        exit: oneshot::Receiver<u8>,
        channel: AgentEnd,
        streams: AgentStreams,
    ) -> Self {
        Self { child, exit, channel, streams }
    }

    /// Follows it until it is so far.
    pub(crate) async fn reach(&mut self, stage: Stage) -> Result<(), StartError> {
        follow_to(&self.channel, stage, &mut self.streams.terminal).await
    }

    /// Its pid in the agent's pid namespace.
    pub(crate) const fn pid(&self) -> u32 {
        self.child.pid
    }

    /// Lets it go on from where it waits.
    pub(crate) async fn go_on(&self) -> Result<(), StartError> {
        self.channel.start().await.step(|| "letting the new process go on".to_owned())
    }

    /// Ends it. It is gone when this returns.
    pub(crate) async fn undo(self) {
        // It may have ended by itself.
        let _ = send_signal(self.child.pidfd.as_fd(), libc::SIGKILL.cast_unsigned());
        // An error cannot be: the reaper outlives everything.
        let _ = self.exit.await;
    }

    pub(crate) fn into_parts(self) -> (Child, oneshot::Receiver<u8>, AgentEnd, AgentStreams) {
        (self.child, self.exit, self.channel, self.streams)
    }
}

/// Listens to a process until it is at `stage`, cannot get there, or is dead.
pub(crate) async fn follow_to(
    channel: &AgentEnd,
    stage: Stage,
    terminal: &mut Option<OwnedFd>,
) -> Result<(), StartError> {
    let mut executing = false;
    loop {
        let message = channel.receive().await;
        match message.step(|| "listening to the new process".to_owned())? {
            Message::Ready if stage == Stage::Ready => return Ok(()),
            Message::Ready => {}
            Message::Executing => executing = true,
            Message::Terminal(master) => *terminal = Some(master),
            Message::Failed(error) => return Err(error),
            // execve closed its end.
            Message::End if executing && stage == Stage::Executing => return Ok(()),
            Message::End => {
                let text = "the new process was killed while it was made: out of memory?";
                return Err(StartError::Reported(text.to_owned()));
            }
        }
    }
}
