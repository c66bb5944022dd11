//! A line to systemd: its own socket, on which there is no D-Bus daemon.
//!
//! ```text
//!  here ──AUTH, BEGIN in one piece──▶ systemd      so that the greeting is over there, too, before
//!       ◀────────────── OK ──────────              the first call: systemd does not look at a call
//!       ─────────── a call ─────────▶              that came together with the end of the greeting
//!       ◀──────── its answer ────────
//! ```
//!
//! What this is not: for users. The socket is root's.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::message::{self, Answer, Arguments, FIXED_BYTES};

const SOCKET: &str = "/run/systemd/private";

/// `EXTERNAL` is who the socket says we are: here user 0, whose number is "0" in hexadecimal digits.
const GREETING: &[u8] = b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n";

/// `OK` and 32 digits.
const MAX_LINE_BYTES: usize = 64;

/// A busy systemd (one that boots, say) takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Signals and answers to others that may come before the one that is waited for.
const MAX_FOREIGN: usize = 1000;

/// Why systemd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Nobody listens.
    #[error("Cannot connect to {SOCKET}")]
    Connect(#[source] io::Error),
    /// Not in time, or no more.
    #[error("systemd does not answer")]
    Transfer(#[source] io::Error),
    /// It does not take us for root.
    #[error("systemd does not accept the greeting")]
    Greeting,
    /// What came is no message.
    #[error("systemd's answer is not to be understood")]
    Malformed,
    /// It said no.
    #[error("{method}: {name}")]
    Refused {
        /// What was called.
        method: &'static str,
        /// D-Bus' name of the error.
        name: String,
    },
}

impl BusError {
    /// Whether it said that by this name.
    pub(super) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name == wanted)
    }
}

/// A line on which calls can be made.
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
}

impl Bus {
    /// Connects and greets.
    pub(super) fn open() -> Result<Self, BusError> {
        Self::greeted(UnixStream::connect(SOCKET).map_err(BusError::Connect)?)
    }

    fn greeted(mut stream: UnixStream) -> Result<Self, BusError> {
        stream.set_read_timeout(Some(PATIENCE)).map_err(BusError::Transfer)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(BusError::Transfer)?;
        stream.write_all(GREETING).map_err(BusError::Transfer)?;
        match line(&mut stream).map_err(BusError::Transfer)? {
            line if line.starts_with(b"OK") => Ok(Self { stream, serial: 0 }),
            _ => Err(BusError::Greeting),
        }
    }

    /// Calls a method of systemd's manager and waits for its answer.
    pub(super) fn call(
        &mut self,
        method: &'static str,
        arguments: &Arguments,
    ) -> Result<(), BusError> {
        self.serial += 1;
        let call = arguments.call(self.serial, method);
        self.stream.write_all(&call).map_err(BusError::Transfer)?;
        for _ in 0..MAX_FOREIGN {
            match self.receive()? {
                Answer::Done => return Ok(()),
                Answer::Refused(name) => return Err(BusError::Refused { method, name }),
                Answer::Foreign => {}
            }
        }
        Err(BusError::Malformed)
    }

    fn receive(&mut self) -> Result<Answer, BusError> {
        let mut message = vec![0; FIXED_BYTES];
        self.stream.read_exact(&mut message).map_err(BusError::Transfer)?;
        let fixed = message.first_chunk().ok_or(BusError::Malformed)?;
        let length = message::length(fixed).ok_or(BusError::Malformed)?;
        message.resize(length, 0);
        self.stream.read_exact(&mut message[FIXED_BYTES..]).map_err(BusError::Transfer)?;
        message::answer(&message, self.serial).ok_or(BusError::Malformed)
    }
}

/// One line of the greeting. What follows belongs to messages, so it is read byte by byte.
fn line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") && line.len() < MAX_LINE_BYTES {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// An answer to serial 1: done, or an error's name.
    fn answered(bytes: &'static [u8]) -> Result<(), BusError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let systemd = thread::spawn(move || {
            let mut greeting = vec![0; GREETING.len()];
            theirs.read_exact(&mut greeting).unwrap();
            assert_eq!(greeting, GREETING);
            theirs.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n").unwrap();
            let mut call = [0; FIXED_BYTES];
            theirs.read_exact(&mut call).unwrap();
            let mut rest = vec![0; message::length(&call).unwrap() - FIXED_BYTES];
            theirs.read_exact(&mut rest).unwrap();
            theirs.write_all(bytes).unwrap();
        });
        let answer = Bus::greeted(ours)
            .and_then(|mut bus| bus.call("ResetFailedUnit", &Arguments::default().text("a")));
        systemd.join().unwrap();
        answer
    }

    const DONE: &[u8] = b"l\x02\x01\x01\0\0\0\0\x09\0\0\0\x08\0\0\0\x05\x01u\0\x01\0\0\0";

    #[test]
    fn a_call_ends_with_its_answer() {
        answered(DONE).unwrap();
    }

    #[test]
    fn what_is_not_an_answer_to_it_is_passed_over() {
        const OTHER: &[u8] = b"l\x02\x01\x01\0\0\0\0\x09\0\0\0\x08\0\0\0\x05\x01u\0\x09\0\0\0\
            l\x02\x01\x01\0\0\0\0\x09\0\0\0\x08\0\0\0\x05\x01u\0\x01\0\0\0";
        answered(OTHER).unwrap();
    }

    #[test]
    fn what_is_no_message_and_what_is_cut_is_an_error() {
        assert!(matches!(answered(b"HTTP/1.1 400 Bad"), Err(BusError::Malformed)));
        assert!(matches!(answered(&DONE[..20]), Err(BusError::Transfer(_))));
    }

    #[test]
    fn a_greeting_that_is_rejected_is_an_error() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
        assert!(matches!(Bus::greeted(ours), Err(BusError::Greeting)));
    }
}
