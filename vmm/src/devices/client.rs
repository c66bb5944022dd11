//! One connection to the control socket: frames in, with descriptors beside them; answers out.
//!
//! Hostile: little, since only our own user gets here; but a client that sends nonsense, or stops
//! half-way, must not stop the loop. Nothing here blocks, and every buffer has a bound.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cofferdam_protocol::bounds::{
    MAX_CONTROL_ANSWER_BYTES, MAX_CONTROL_BYTES, MAX_CONTROL_DESCRIPTORS,
};
use cofferdam_protocol::control::ControlResponse;
use cofferdam_protocol::frame::{self, FrameError};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};

const LENGTH_BYTES: usize = 4;

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client went away.
    #[error("The client closed the connection")]
    Closed,
    /// It sends more than a frame may have.
    #[error("The client's frame is invalid")]
    Frame(#[source] FrameError),
    /// It sends more descriptors than any request has.
    #[error("The client sends more than {MAX_CONTROL_DESCRIPTORS} descriptors")]
    TooManyDescriptors,
    /// It does not take its answer.
    #[error("The client does not read its answers")]
    Slow,
    /// The socket failed.
    #[error("The connection failed")]
    Socket(#[source] Errno),
}

/// One whole frame.
#[derive(Debug)]
pub struct Received {
    /// Its body.
    pub body: Vec<u8>,
    /// The descriptors that came beside it.
    pub descriptors: Vec<OwnedFd>,
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Client {
    /// A connection whose client has sent nothing yet.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, bytes: Vec::new(), descriptors: Vec::new() }
    }

    /// The socket, for polling.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The socket, for good.
    #[must_use]
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Reads what is there, never past the end of a frame. `None` while the frame is not whole.
    ///
    /// # Errors
    /// When the client went away or breaks the protocol.
    pub fn receive(&mut self) -> Result<Option<Received>, ClientError> {
        loop {
            let missing = missing(&self.bytes).map_err(ClientError::Frame)?;
            if missing == 0 {
                let body = self.bytes.split_off(LENGTH_BYTES);
                self.bytes.clear();
                return Ok(Some(Received {
                    body,
                    descriptors: std::mem::take(&mut self.descriptors),
                }));
            }
            if !self.receive_some(missing)? {
                return Ok(None);
            }
        }
    }

    /// Reads up to `missing` bytes; false when there is nothing to read now.
    fn receive_some(&mut self, missing: usize) -> Result<bool, ClientError> {
        let start = self.bytes.len();
        self.bytes.resize(start + missing, 0);
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_CONTROL_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut slices = [IoSliceMut::new(&mut self.bytes[start..])];
        let received = recvmsg(&self.socket, &mut slices, &mut ancillary, flags);
        let read = received.as_ref().map_or(0, |message| message.bytes);
        self.bytes.truncate(start + read);
        match received {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(error) => return Err(ClientError::Socket(error)),
            Ok(message) if message.flags.contains(ReturnFlags::CTRUNC) => {
                return Err(ClientError::TooManyDescriptors);
            }
            Ok(message) if message.bytes == 0 => return Err(ClientError::Closed),
            Ok(_) => {}
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if self.descriptors.len() > MAX_CONTROL_DESCRIPTORS {
            return Err(ClientError::TooManyDescriptors);
        }
        Ok(true)
    }

    /// Answers. An answer is far smaller than a socket's buffer: who leaves no room for it does
    /// not read.
    ///
    /// # Errors
    /// When the client does not take it.
    pub fn answer(&self, response: &ControlResponse) -> Result<(), ClientError> {
        let frame =
            frame::encode(response, MAX_CONTROL_ANSWER_BYTES).map_err(ClientError::Frame)?;
        match send(&self.socket, &frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) if sent == frame.len() => Ok(()),
            Ok(_) | Err(Errno::AGAIN) => Err(ClientError::Slow),
            Err(error) => Err(ClientError::Socket(error)),
        }
    }
}

/// How many bytes are missing until the length is known, or until the frame is whole.
fn missing(bytes: &[u8]) -> Result<usize, FrameError> {
    let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() else {
        return Ok(LENGTH_BYTES - bytes.len());
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_CONTROL_BYTES {
        return Err(FrameError::TooLong { length, bound: MAX_CONTROL_BYTES });
    }
    Ok((LENGTH_BYTES + length).saturating_sub(bytes.len()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use cofferdam_protocol::control::ControlRequest;
    use proptest::prelude::*;

    use super::*;

    fn pair() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Client::new(ours.into()), theirs)
    }

    #[test]
    fn a_frame_in_pieces_is_put_together_and_nothing_after_it_is_read() {
        let (mut client, mut peer) = pair();
        let mut bytes = frame::encode(&ControlRequest::ConnectAgent, MAX_CONTROL_BYTES).unwrap();
        let body = bytes[LENGTH_BYTES..].to_vec();
        bytes.extend(b"ttrpc");
        for byte in &bytes[..LENGTH_BYTES + body.len() - 1] {
            peer.write_all(&[*byte]).unwrap();
            assert!(client.receive().unwrap().is_none());
        }
        peer.write_all(&bytes[LENGTH_BYTES + body.len() - 1..]).unwrap();
        assert_eq!(client.receive().unwrap().unwrap().body, body);
        let mut rest = [0; 5];
        rustix::net::recv(client.into_socket(), &mut rest, RecvFlags::DONTWAIT).unwrap();
        assert_eq!(&rest, b"ttrpc");
    }

    #[test]
    fn a_length_over_the_bound_ends_the_connection() {
        let (mut client, mut peer) = pair();
        peer.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(matches!(client.receive(), Err(ClientError::Frame(_))));
    }

    #[test]
    fn a_client_that_went_away_is_noticed() {
        let (mut client, peer) = pair();
        drop(peer);
        assert!(matches!(client.receive(), Err(ClientError::Closed)));
    }

    #[test]
    fn a_client_that_does_not_read_is_given_up() {
        let (client, _peer) = pair();
        let answer = ControlResponse::Refused("x".repeat(3000));
        let result = (0..10_000).find_map(|_| client.answer(&answer).err());
        assert!(matches!(result, Some(ClientError::Slow)));
    }

    proptest! {
        #[test]
        fn what_is_missing_never_exceeds_the_bound(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(missing) = missing(&bytes) {
                prop_assert!(missing <= LENGTH_BYTES + MAX_CONTROL_BYTES);
            }
        }
    }
}
