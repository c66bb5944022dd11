//! The wire between the agent and a process that it is making: a pair of `SOCK_SEQPACKET` sockets.
//!
//! ```text
//!  child ▶ agent:  Terminal (with the master's descriptor)?  Ready?  Executing | Failed
//!  agent ▶ child:  Start (after Ready)
//! ```
//! `execve` closes the child's end: `Executing` and then the end of the stream mean success.

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::failure::StartError;
use crate::sys;

/// A failure's text is a step, a path and an error: a path may have 4096 bytes.
const MAX_MESSAGE_BYTES: usize = 8 << 10;

const READY: u8 = b'r';
const EXECUTING: u8 = b'x';
const TERMINAL: u8 = b't';
const FAILED_SETUP: u8 = b's';
const FAILED_NOT_FOUND: u8 = b'n';
const FAILED_NOT_EXECUTABLE: u8 = b'e';
const START: u8 = b'g';

/// What the child says.
#[derive(Debug)]
pub(crate) enum Message {
    /// The container is made and waits for the start.
    Ready,
    /// Its next act is `execve`.
    Executing,
    /// The master side of its terminal.
    Terminal(OwnedFd),
    /// It could not be made; the child ends.
    Failed(StartError),
    /// The child closed its end: it executes its program, or is dead.
    End,
}

/// Makes both ends.
pub(crate) fn pair() -> io::Result<(AgentEnd, ChildEnd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((AgentEnd(sys::register(ours)?), ChildEnd(theirs)))
}

/// The agent's end.
#[derive(Debug)]
pub(crate) struct AgentEnd(AsyncFd<OwnedFd>);

impl AgentEnd {
    /// The child's next message.
    pub(crate) async fn receive(&self) -> io::Result<Message> {
        self.0.async_io(Interest::READABLE, |socket| receive(socket.as_fd())).await
    }

    /// Lets a ready container start.
    pub(crate) async fn start(&self) -> io::Result<()> {
        let sent = self.0.async_io(Interest::WRITABLE, |socket| {
            Ok(send(socket, &[START], SendFlags::NOSIGNAL)?)
        });
        sent.await.map(drop)
    }
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<Message> {
    let mut bytes = [0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(parse(bytes.get(..received.bytes).unwrap_or_default(), descriptor))
}

fn parse(bytes: &[u8], descriptor: Option<OwnedFd>) -> Message {
    let text = |rest: &[u8]| String::from_utf8_lossy(rest).into_owned();
    match (bytes, descriptor) {
        ([], _) => Message::End,
        ([READY], _) => Message::Ready,
        ([EXECUTING], _) => Message::Executing,
        ([TERMINAL], Some(master)) => Message::Terminal(master),
        ([FAILED_NOT_FOUND, rest @ ..], _) => Message::Failed(StartError::NotFound(text(rest))),
        ([FAILED_NOT_EXECUTABLE, rest @ ..], _) => {
            Message::Failed(StartError::NotExecutable(text(rest)))
        }
        ([_, rest @ ..], _) => Message::Failed(StartError::Reported(text(rest))),
    }
}

/// The child's end.
#[derive(Debug)]
pub(crate) struct ChildEnd(OwnedFd);

impl ChildEnd {
    /// Its number, to be kept open.
    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Says that the container is made, and waits for the start. False: the agent gave up.
    pub(crate) fn ready_and_wait(&self) -> io::Result<bool> {
        self.send(&[READY])?;
        self.wait()
    }

    /// Waits until the agent lets this process go on. False: it gave up.
    pub(crate) fn wait(&self) -> io::Result<bool> {
        let mut byte = [0];
        let received = rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut byte))?;
        Ok(received == 1 && byte == [START])
    }

    /// Says that `execve` comes next.
    pub(crate) fn executing(&self) -> io::Result<()> {
        self.send(&[EXECUTING])
    }

    /// Hands over the master side of the terminal.
    pub(crate) fn terminal(&self, master: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [master];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&self.0, &[IoSlice::new(&[TERMINAL])], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Says why it failed. Nothing can be done when that cannot be said.
    pub(crate) fn failed(&self, error: &StartError) {
        let kind = match error {
            StartError::NotFound(_) => FAILED_NOT_FOUND,
            StartError::NotExecutable(_) => FAILED_NOT_EXECUTABLE,
            StartError::Setup { .. } | StartError::Reported(_) => FAILED_SETUP,
        };
        let mut bytes = vec![kind];
        bytes.extend_from_slice(error.message().as_bytes());
        bytes.truncate(MAX_MESSAGE_BYTES);
        let _ = self.send(&bytes);
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        send(&self.0, bytes, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_message_parses(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes, None);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_the_child_says_the_agent_hears() {
        let (agent, child) = pair().unwrap();
        let (pipe, _writer) = rustix::pipe::pipe().unwrap();
        child.terminal(pipe.as_fd()).unwrap();
        child.failed(&StartError::NotFound("no".to_owned()));
        drop(child);
        assert!(matches!(agent.receive().await.unwrap(), Message::Terminal(_)));
        let failed = agent.receive().await.unwrap();
        assert!(matches!(failed, Message::Failed(StartError::NotFound(text)) if text == "no"));
        assert!(matches!(agent.receive().await.unwrap(), Message::End));
    }
}
