//! CRIU, driven as its own clients do it: `criu swrk` is started with one end of a socket, is told
//! over it what to do, and says what it is about to do while it works.
//!
//! ```text
//!   caller ── request ──────────────▶ criu swrk
//!          ◀── notice (a descriptor) ──  ...
//!          ── go on, or do not ─────▶
//!          ◀── response ────────────── ends
//! ```
//!
//! What this is not: it knows nothing of containers. What CRIU is asked is decided in
//! [`super::checkpoint()`] and [`super::restore`].
//!
//! Hostile: nothing that comes from CRIU itself, which runs as the caller does.

use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use protobuf::Message;
use rust_criu::rust_criu_protobuf::rpc;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendFlags, SocketFlags, SocketType, socketpair,
};

/// The program, found in `PATH`.
pub(super) const PROGRAM: &str = "criu";

/// As much as runc has CRIU log.
pub(super) const LOG_LEVEL: i32 = 4;

/// Longer than any message of CRIU's.
const MAX_MESSAGE: usize = 64 * 1024;

/// How much of a log is looked through for what went wrong.
const LOG_TAIL: u64 = 64 * 1024;

/// How many of its lines are repeated in an error.
const LOG_LINES: usize = 3;

/// Why CRIU did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CriuError {
    /// Not installed.
    #[error("There is no criu in PATH: install the package criu")]
    Missing,
    /// Something about the way to it.
    #[error("Cannot {step}")]
    Host {
        /// In words that complete `cannot ...`.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It says something else than its protocol has.
    #[error("What criu says cannot be understood")]
    Protocol(#[source] protobuf::Error),
    /// It failed, or ended without an answer.
    #[error("criu failed: {said}\nlog file: {}", log.display())]
    Failed {
        /// The last errors of its log.
        said: String,
        /// Which has more.
        log: PathBuf,
    },
}

/// What CRIU says on the way: the name of a step, the first process if there is one, and a
/// terminal's master side where the step is to hand one over.
pub(super) struct Notice {
    pub(super) step: String,
    pub(super) pid: i32,
    pub(super) descriptor: Option<OwnedFd>,
}

/// What becomes of CRIU when whoever attends to it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnRefusal {
    /// It is told not to go on, and waited for: it sets processes going again that it stopped.
    Tell,
    /// It is left as it is, waiting for an answer, to be killed.
    Leave,
}

/// The caller's end of a connection to CRIU.
pub(super) struct Connection {
    socket: OwnedFd,
    /// Where it writes its log.
    log: PathBuf,
}

impl Connection {
    /// One, and CRIU's end of it.
    pub(super) fn open(log: PathBuf) -> Result<(Self, OwnedFd), CriuError> {
        let made =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (socket, theirs) = made.map_err(|e| step("connect to criu")(e.into()))?;
        Ok((Self { socket, log }, theirs))
    }

    /// Asks, and attends to what CRIU says until it has done it. When `attend` fails that error is the
    /// outcome.
    pub(super) fn ask<E: From<CriuError>>(
        &self,
        request: &rpc::Criu_req,
        on_refusal: OnRefusal,
        mut attend: impl FnMut(Notice) -> Result<(), E>,
    ) -> Result<rpc::Criu_resp, E> {
        self.send(request)?;
        let mut refused = None;
        loop {
            let answer = self.receive();
            if let Some(refused) = refused.take_if(|_| !is_notice(&answer)) {
                return Err(refused);
            }
            let (response, descriptor) = answer?;
            if response.type_() != rpc::Criu_req_type::NOTIFY || !response.success() {
                return if response.success() {
                    Ok(response)
                } else {
                    Err(self.failed(&response).into())
                };
            }
            let notify = &response.notify;
            let (step, pid) = (notify.script().to_owned(), notify.pid());
            tracing::debug!(pid, "criu: {step}");
            if refused.is_none() {
                refused = attend(Notice { step, pid, descriptor }).err();
            }
            if on_refusal == OnRefusal::Leave
                && let Some(refused) = refused
            {
                return Err(refused);
            }
            self.send(&go_on(refused.is_none()))?;
        }
    }

    fn send(&self, request: &rpc::Criu_req) -> Result<(), CriuError> {
        let bytes = request.write_to_bytes().map_err(CriuError::Protocol)?;
        let mut nothing = SendAncillaryBuffer::default();
        let parts = [IoSlice::new(&bytes)];
        rustix::net::sendmsg(&self.socket, &parts, &mut nothing, SendFlags::NOSIGNAL)
            .map_err(|_| self.ended())?;
        Ok(())
    }

    fn receive(&self) -> Result<(rpc::Criu_resp, Option<OwnedFd>), CriuError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = vec![0; MAX_MESSAGE];
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(&self.socket, &mut parts, &mut control, flags) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(received) if received.bytes > 0 => break received.bytes,
                Ok(_) | Err(_) => return Err(self.ended()),
            }
        };
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let bytes = bytes.get(..received).unwrap_or_default();
        let response = rpc::Criu_resp::parse_from_bytes(bytes).map_err(CriuError::Protocol)?;
        Ok((response, descriptor))
    }

    fn failed(&self, response: &rpc::Criu_resp) -> CriuError {
        let said = errors_in(&self.log)
            .or_else(|| response.cr_errmsg.clone())
            .unwrap_or_else(|| format!("errno {}", response.cr_errno()));
        CriuError::Failed { said, log: self.log.clone() }
    }

    fn ended(&self) -> CriuError {
        let said = errors_in(&self.log).unwrap_or_else(|| "it ended before it answered".to_owned());
        CriuError::Failed { said, log: self.log.clone() }
    }
}

fn is_notice(answer: &Result<(rpc::Criu_resp, Option<OwnedFd>), CriuError>) -> bool {
    answer.as_ref().is_ok_and(|(response, _)| {
        response.type_() == rpc::Criu_req_type::NOTIFY && response.success()
    })
}

fn go_on(success: bool) -> rpc::Criu_req {
    let mut answer = rpc::Criu_req::new();
    answer.set_type(rpc::Criu_req_type::NOTIFY);
    answer.set_notify_success(success);
    answer
}

pub(super) fn step(step: &'static str) -> impl FnOnce(io::Error) -> CriuError {
    move |source| CriuError::Host { step, source }
}

/// The last errors of a log; without any, its last line.
fn errors_in(log: &Path) -> Option<String> {
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes).ok()?;
    last_errors(&String::from_utf8_lossy(&bytes))
}

fn last_errors(text: &str) -> Option<String> {
    let errors: Vec<&str> = text.lines().filter(|line| line.contains("Error (")).collect();
    let from = errors.len().saturating_sub(LOG_LINES);
    if errors.is_empty() {
        return text.lines().rfind(|line| !line.is_empty()).map(str::to_owned);
    }
    Some(errors.get(from..)?.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(kind: rpc::Criu_req_type, success: bool) -> Vec<u8> {
        let mut response = rpc::Criu_resp::new();
        response.set_type(kind);
        response.set_success(success);
        if kind == rpc::Criu_req_type::NOTIFY {
            response.notify.mut_or_insert_default().set_script("post-dump".to_owned());
        }
        response.write_to_bytes().unwrap()
    }

    fn dump() -> rpc::Criu_req {
        let mut request = rpc::Criu_req::new();
        request.set_type(rpc::Criu_req_type::DUMP);
        request
    }

    fn connected(messages: &[Vec<u8>]) -> (Connection, OwnedFd) {
        let (connection, theirs) = Connection::open("/nonexistent/dump.log".into()).unwrap();
        for message in messages {
            rustix::io::write(&theirs, message).unwrap();
        }
        (connection, theirs)
    }

    #[test]
    fn what_criu_says_on_the_way_is_attended_to() {
        use rpc::Criu_req_type::{DUMP, NOTIFY};
        let (connection, _theirs) = connected(&[response(NOTIFY, true), response(DUMP, true)]);
        let mut heard = Vec::new();
        let outcome: Result<_, CriuError> = connection.ask(&dump(), OnRefusal::Tell, |notice| {
            heard.push(notice.step);
            Ok(())
        });
        assert!(outcome.unwrap().success());
        assert_eq!(heard, ["post-dump"]);
    }

    #[test]
    fn who_fails_on_the_way_has_the_last_word() {
        use rpc::Criu_req_type::{DUMP, NOTIFY};
        let (connection, theirs) = connected(&[response(NOTIFY, true), response(DUMP, false)]);
        let refused = |_| Err(CriuError::Missing);
        assert!(matches!(
            connection.ask(&dump(), OnRefusal::Tell, refused),
            Err(CriuError::Missing)
        ));
        let mut bytes = [0; 64];
        rustix::io::read(&theirs, &mut bytes).unwrap();
        let length = rustix::io::read(&theirs, &mut bytes).unwrap();
        assert!(!rpc::Criu_req::parse_from_bytes(&bytes[..length]).unwrap().notify_success());
    }

    #[test]
    fn a_criu_that_ends_without_an_answer_has_failed() {
        let (connection, theirs) = connected(&[]);
        drop(theirs);
        let outcome: Result<_, CriuError> = connection.ask(&dump(), OnRefusal::Tell, |_| Ok(()));
        assert!(matches!(outcome, Err(CriuError::Failed { .. })));
    }

    #[test]
    fn the_last_errors_of_a_log_are_repeated() {
        let log = "(0.1) Warn  (a)\n(0.2) Error (b.c:1): one\n(0.3) x\n(0.4) Error (c.c:2): two\n";
        assert_eq!(last_errors(log).unwrap(), "(0.2) Error (b.c:1): one; (0.4) Error (c.c:2): two");
        assert_eq!(last_errors("a\nb\n\n").unwrap(), "b");
        assert_eq!(last_errors(""), None);
    }
}
