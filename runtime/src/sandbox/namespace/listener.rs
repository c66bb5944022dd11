//! `linux.seccomp.listenerPath`: the descriptor of a filter's notifications reaches the program
//! that answers them.
//!
//! ```text
//!   container's process: loads the filter, writes the descriptor's number ─▶ caller
//!                        waits ◀──────────────── a byte ──── pidfd_getfd, sends it on
//! ```
//!
//! With the filter loaded the process may make no call that its program would have to answer and
//! cannot yet, but for write(2), for which the action is refused.
//!
//! Hostile: nothing yet. The process runs our own code.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use super::hook::HookState;
use super::sys;

/// What the caller knows of a listener, and its end of the connection.
pub(super) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    metadata: String,
    state: HookState,
}

/// Why nobody will answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenerError {
    /// The container's process ended before.
    #[error("Cannot take the seccomp listener from the container's process")]
    Take(#[source] io::Error),
    /// The words are runc's.
    #[error("failed to connect with seccomp agent specified in the seccomp profile: {path}")]
    Send { path: PathBuf, source: io::Error },
}

/// Whether a profile has calls answered by a program.
pub(super) fn is_used(profile: &LinuxSeccomp) -> bool {
    let notify = LinuxSeccompAction::ScmpActNotify;
    profile.syscalls().iter().flatten().any(|rule| rule.action() == notify)
}

impl Listener {
    /// One for this profile, and the process's end of the connection. In the state the number of
    /// the container's process may be missing: then it is the one that loads the filter.
    pub(super) fn open(profile: &LinuxSeccomp, state: HookState) -> io::Result<(Self, OwnedFd)> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_passcred(&socket, true)?;
        let path = profile.listener_path().clone().unwrap_or_default();
        let metadata = profile.listener_metadata().clone().unwrap_or_default();
        Ok((Self { socket, path, metadata, state }, theirs))
    }

    /// To be read from when something is there.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Hands the listener over, and lets the process go on.
    pub(super) fn hand_over(&mut self) -> Result<(), ListenerError> {
        let (number, pid) = self.receive().map_err(ListenerError::Take)?;
        self.hand_over_from(pid, number).inspect_err(|_| {
            // It may be in a call that nobody will ever answer: not even an end of file ends that.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        })
    }

    fn hand_over_from(&self, pid: Pid, number: i32) -> Result<(), ListenerError> {
        let descriptor = take(pid, number).map_err(ListenerError::Take)?;
        self.send(pid, &descriptor)
            .map_err(|source| ListenerError::Send { path: self.path.clone(), source })?;
        rustix::net::send(&self.socket, &[0], SendFlags::NOSIGNAL)
            .map_err(|e| ListenerError::Take(e.into()))?;
        Ok(())
    }

    fn receive(&self) -> io::Result<(i32, Pid)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 4];
        let mut parts = [io::IoSliceMut::new(&mut bytes)];
        let received =
            rustix::net::recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let sender = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
            _ => None,
        });
        match (received.bytes, sender) {
            (4, Some(pid)) => Ok((i32::from_ne_bytes(bytes), pid)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn send(&self, pid: Pid, descriptor: &OwnedFd) -> io::Result<()> {
        let pid = pid.as_raw_nonzero().get();
        let mut state = self.state.clone();
        if state.pid == 0 {
            state.pid = pid;
        }
        let message = serde_json::to_vec(&serde_json::json!({
            "ociVersion": state.oci_version,
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": self.metadata,
            "state": state,
        }))?;
        let stream = UnixStream::connect(&self.path)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let parts = [io::IoSlice::new(&message)];
        rustix::net::sendmsg(stream, &parts, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

fn take(pid: Pid, number: i32) -> io::Result<OwnedFd> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    Ok(rustix::process::pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty())?)
}

/// The process's side, with the filter loaded: says where the listener is and waits until it was
/// taken.
pub(super) fn announce(socket: BorrowedFd<'_>, listener: i32) -> io::Result<()> {
    rustix::io::write(socket, &listener.to_ne_bytes())?;
    let mut taken = [0];
    let taken = rustix::io::read(socket, &mut taken)? == 1;
    sys::close(listener)?;
    if taken { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_listener_reaches_the_program_with_what_it_is_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent");
        let agent = UnixListener::bind(&path).unwrap();
        let profile: LinuxSeccomp = serde_json::from_value(serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "m",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
        }))
        .unwrap();
        assert!(is_used(&profile));
        let state = HookState {
            oci_version: "1.2.0".into(),
            id: "a".into(),
            status: "creating".into(),
            pid: 0,
            bundle: "/b".into(),
            folder: None,
            annotations: std::collections::BTreeMap::new(),
        };
        let (mut ours, theirs) = Listener::open(&profile, state).unwrap();
        // Any descriptor stands for a filter's.
        let file = tempfile::tempfile().unwrap();
        rustix::io::write(&theirs, &file.as_raw_fd().to_ne_bytes()).unwrap();
        ours.hand_over().unwrap();
        let mut message = String::new();
        agent.accept().unwrap().0.read_to_string(&mut message).unwrap();
        let message: serde_json::Value = serde_json::from_str(&message).unwrap();
        assert_eq!(message["metadata"], "m");
        assert_eq!(message["fds"][0], "seccompFd");
        assert_eq!(message["state"]["pid"], std::process::id());
    }
}
