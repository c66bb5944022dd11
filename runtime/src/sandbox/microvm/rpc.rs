//! ttrpc's wire format, the client's half: unary calls over one connected stream.
//!
//! The crate's own blocking client starts two threads for each connection. Here there must be
//! none (the callers fork), a call must end with its deadline, and the proxy of a detached exec
//! must send signals while it waits for an exit. So this is the format alone: requests out,
//! responses in, in any order.
//!
//! Hostile: every byte that comes in. A frame has a bound, and an answer that was not asked for
//! ends the connection.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use protobuf::Message;
use ttrpc::proto::{
    Code, MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE, MessageHeader,
};

use crate::figures::{self, AgentMethod, Timed};

/// The service's name in the agent's `.proto`.
const SERVICE: &str = "cofferdam.agent.v1.Agent";

/// The largest answer is the list of a container's processes. A guest could have us allocate as
/// much as it announces.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The deadline passed.
    #[error("The guest did not answer {method} in time")]
    Timeout {
        /// The call.
        method: &'static str,
    },
    /// The connection ended: the monitor or the guest is gone.
    #[error("The guest is gone")]
    Closed,
    /// The connection failed.
    #[error("The connection to the guest failed")]
    Io(#[source] io::Error),
    /// The agent refused; the text is the guest's.
    #[error("The guest's agent refused {method}: {message}")]
    Refused {
        /// The call.
        method: &'static str,
        /// The agent's words, shortened, without control characters.
        message: String,
    },
    /// What came is no answer to what was asked.
    #[error("The guest's answer to {method} makes no sense")]
    Malformed {
        /// The call.
        method: &'static str,
    },
}

/// A request that was sent and waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    stream: u32,
    method: &'static str,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    next_stream: u32,
    /// What was received and is not a whole frame yet.
    partial: Vec<u8>,
    /// Answers that came before someone asked for them.
    answers: BTreeMap<u32, Vec<u8>>,
    /// Streams whose answer may still come.
    awaited: Vec<u32>,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Connection {
    /// Speaks over a connected stream.
    pub(super) fn new(stream: UnixStream) -> Self {
        // A client's streams have odd numbers.
        let (partial, awaited) = (Vec::new(), Vec::new());
        Self { stream, next_stream: 1, partial, answers: BTreeMap::new(), awaited }
    }

    /// Sends a request and waits for its answer; how long that took is noted, be there one or not.
    pub(super) fn call<A: Message>(
        &mut self,
        method: &'static str,
        request: &impl Message,
        timeout: Duration,
    ) -> Result<A, CallError> {
        let begun = Instant::now();
        let pending = self.send(method, request, timeout)?;
        let answer = self.receive(pending, Some(begun + timeout));
        figures::time(Timed::Agent(AgentMethod::named(method)), begun.elapsed());
        answer
    }

    /// Sends a request.
    pub(super) fn send(
        &mut self,
        method: &'static str,
        request: &impl Message,
        timeout: Duration,
    ) -> Result<Pending, CallError> {
        let malformed = |_| CallError::Malformed { method };
        let body = ttrpc::Request {
            service: SERVICE.to_owned(),
            method: method.to_owned(),
            payload: request.write_to_bytes().map_err(malformed)?,
            ..Default::default()
        };
        let body = body.write_to_bytes().map_err(malformed)?;
        let pending = Pending { stream: self.next_stream, method };
        self.next_stream += 2;
        let header = MessageHeader {
            // Requests are bounded by MAX_PLAN_BYTES.
            length: u32::try_from(body.len()).unwrap_or(u32::MAX),
            stream_id: pending.stream,
            type_: MESSAGE_TYPE_REQUEST,
            flags: 0,
        };
        let mut frame: Vec<u8> = header.into();
        frame.extend(body);
        self.stream.set_write_timeout(Some(timeout)).map_err(CallError::Io)?;
        self.stream.write_all(&frame).map_err(|error| lost(error, method))?;
        self.awaited.push(pending.stream);
        Ok(pending)
    }

    /// Waits for an answer, without end if there is no deadline: the guest's death ends it.
    pub(super) fn receive<A: Message>(
        &mut self,
        pending: Pending,
        deadline: Option<Instant>,
    ) -> Result<A, CallError> {
        loop {
            if let Some(answer) = self.take(pending)? {
                return Ok(answer);
            }
            self.read_some(pending.method, deadline)?;
        }
    }

    /// The answer, if it has come. Never blocks.
    pub(super) fn take<A: Message>(&mut self, pending: Pending) -> Result<Option<A>, CallError> {
        let method = pending.method;
        let Some(body) = self.answers.remove(&pending.stream) else { return Ok(None) };
        let response = ttrpc::Response::parse_from_bytes(&body)
            .map_err(|_| CallError::Malformed { method })?;
        let status = response.status.unwrap_or_default();
        if status.code() != Code::OK {
            return Err(CallError::Refused { method, message: printable(&status.message) });
        }
        A::parse_from_bytes(&response.payload)
            .map(Some)
            .map_err(|_| CallError::Malformed { method })
    }

    /// Reads what has come, at least one byte, and puts whole answers aside.
    pub(super) fn read_some(
        &mut self,
        method: &'static str,
        deadline: Option<Instant>,
    ) -> Result<(), CallError> {
        let remaining = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return Err(CallError::Timeout { method }),
            remaining => remaining,
        };
        self.stream.set_read_timeout(remaining).map_err(CallError::Io)?;
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(CallError::Closed),
            Ok(count) => self.partial.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(lost(error, method)),
        }
        while self.split_frame(method)? {}
        Ok(())
    }

    /// Takes one whole frame out of what was received.
    fn split_frame(&mut self, method: &'static str) -> Result<bool, CallError> {
        let Some(header) = self.partial.get(..MESSAGE_HEADER_LENGTH) else { return Ok(false) };
        let header = MessageHeader::from(header);
        let length = header.length as usize;
        let expected = self.awaited.iter().position(|stream| *stream == header.stream_id);
        let (Some(expected), true) = (expected, header.type_ == MESSAGE_TYPE_RESPONSE) else {
            return Err(CallError::Malformed { method });
        };
        if length > MAX_ANSWER_BYTES {
            return Err(CallError::Malformed { method });
        }
        let end = MESSAGE_HEADER_LENGTH + length;
        if self.partial.len() < end {
            return Ok(false);
        }
        let rest = self.partial.split_off(end);
        let frame = std::mem::replace(&mut self.partial, rest);
        self.awaited.swap_remove(expected);
        let body = frame.get(MESSAGE_HEADER_LENGTH..).unwrap_or_default().to_vec();
        self.answers.insert(header.stream_id, body);
        Ok(true)
    }
}

fn lost(error: io::Error, method: &'static str) -> CallError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CallError::Timeout { method },
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => CallError::Closed,
        _ => CallError::Io(error),
    }
}

/// A text of the guest's as it may be shown: one line, no control characters, not too long.
pub(super) fn printable(text: &str) -> String {
    const MAX_SHOWN_CHARACTERS: usize = 1024;
    let replace = |character: char| if character.is_control() { ' ' } else { character };
    text.chars().take(MAX_SHOWN_CHARACTERS).map(replace).collect()
}

#[cfg(test)]
mod tests {
    use cofferdam_protocol::agent::{ListProcessesRequest, SignalResponse, WaitResponse};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Connection::new(ours), theirs)
    }

    fn frame(stream_id: u32, type_: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap();
        let mut frame: Vec<u8> = MessageHeader { length, stream_id, type_, flags: 0 }.into();
        frame.extend_from_slice(body);
        frame
    }

    fn answer(stream: u32, message: &impl Message) -> Vec<u8> {
        let payload = message.write_to_bytes().unwrap();
        let response = ttrpc::Response { payload, ..Default::default() };
        frame(stream, MESSAGE_TYPE_RESPONSE, &response.write_to_bytes().unwrap())
    }

    fn send(connection: &mut Connection, method: &'static str) -> Pending {
        connection.send(method, &ListProcessesRequest::new(), TIMEOUT).unwrap()
    }

    #[test]
    fn a_request_is_what_a_server_expects() {
        let (mut connection, mut server) = pair();
        send(&mut connection, "ListProcesses");
        let mut header = [0; MESSAGE_HEADER_LENGTH];
        server.read_exact(&mut header).unwrap();
        let header = MessageHeader::from(header);
        assert_eq!((header.stream_id, header.type_, header.flags), (1, MESSAGE_TYPE_REQUEST, 0));
        let mut body = vec![0; header.length as usize];
        server.read_exact(&mut body).unwrap();
        let request = ttrpc::Request::parse_from_bytes(&body).unwrap();
        assert_eq!((request.service.as_str(), request.method.as_str()), (SERVICE, "ListProcesses"));
    }

    #[test]
    fn answers_may_come_in_any_order_and_in_pieces() {
        let (mut connection, mut server) = pair();
        let first = send(&mut connection, "Wait");
        let second = send(&mut connection, "Signal");
        let mut bytes = answer(3, &SignalResponse { delivered: true, ..Default::default() });
        bytes.extend(answer(1, &WaitResponse { code: 7, ..Default::default() }));
        let (head, tail) = bytes.split_at(13);
        server.write_all(head).unwrap();
        connection.read_some("Signal", None).unwrap();
        assert!(connection.take::<SignalResponse>(second).unwrap().is_none());
        server.write_all(tail).unwrap();
        assert!(connection.receive::<SignalResponse>(second, None).unwrap().delivered);
        assert_eq!(connection.receive::<WaitResponse>(first, None).unwrap().code, 7);
    }

    #[test]
    fn a_deadline_ends_a_call() {
        let (mut connection, _server) = pair();
        let pending = send(&mut connection, "Wait");
        let deadline = Some(Instant::now() + Duration::from_millis(20));
        let result = connection.receive::<WaitResponse>(pending, deadline);
        assert!(matches!(result, Err(CallError::Timeout { method: "Wait" })));
    }

    #[test]
    fn an_end_of_the_connection_is_told_from_a_timeout() {
        let (mut connection, server) = pair();
        let pending = send(&mut connection, "Wait");
        drop(server);
        let result = connection.receive::<WaitResponse>(pending, None);
        assert!(matches!(result, Err(CallError::Closed)), "{result:?}");
    }

    #[test]
    fn a_guest_cannot_announce_more_than_the_bound_or_answer_what_was_not_asked() {
        for bytes in [
            frame(9, MESSAGE_TYPE_RESPONSE, b""),
            frame(1, MESSAGE_TYPE_REQUEST, b""),
            [&u32::MAX.to_be_bytes()[..], &[0, 0, 0, 1, MESSAGE_TYPE_RESPONSE, 0]].concat(),
        ] {
            let (mut connection, mut server) = pair();
            let pending = send(&mut connection, "Wait");
            server.write_all(&bytes).unwrap();
            let result = connection.receive::<WaitResponse>(pending, None);
            assert!(matches!(result, Err(CallError::Malformed { .. })), "{result:?}");
        }
    }

    #[test]
    fn a_refusal_is_shown_without_its_control_characters() {
        let (mut connection, mut server) = pair();
        let pending = send(&mut connection, "Wait");
        let mut status = ttrpc::get_status(Code::NOT_FOUND, "no\x1b[2Jsuch");
        status.code = Code::NOT_FOUND.into();
        let response = ttrpc::Response { status: Some(status).into(), ..Default::default() };
        let body = response.write_to_bytes().unwrap();
        server.write_all(&frame(1, MESSAGE_TYPE_RESPONSE, &body)).unwrap();
        let refused = connection.receive::<WaitResponse>(pending, None).unwrap_err();
        assert_eq!(refused.to_string(), "The guest's agent refused Wait: no [2Jsuch");
    }
}
