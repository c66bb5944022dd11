//! Questions for names and their answers (RFC 1035) on a stream between guest and monitor, each
//! behind its length, as they are over TCP (section 4.2.2).
//!
//! ```text
//!  ┌ length, 2 bytes, big-endian ┬ message ┐┌ length ┬ …
//! ```
//!
//! What this is not: it does not know what is asked. A message is at least a header
//! ([`HEADER_BYTES`]), which begins with the number by which a question finds its answer.
//!
//! Hostile: every byte that comes from a guest, and how the stream is cut into pieces.

use crate::bounds::MAX_NAME_MESSAGE_BYTES;

/// The header of a message (section 4.1.1).
pub const HEADER_BYTES: usize = 12;
const LENGTH_BYTES: usize = 2;

/// A length that no message has: the stream has lost its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("A message for a name server has {0} bytes")]
pub struct InvalidLength(pub usize);

/// A message as it goes on the stream; `None` for what is none.
#[must_use]
pub fn framed(message: &[u8]) -> Option<Vec<u8>> {
    let length = checked(message.len()).ok()?;
    Some([&(length as u16).to_be_bytes()[..], message].concat())
}

/// What of a stream came, until it is messages.
#[derive(Debug, Default)]
pub struct Incoming {
    /// Less than one message and its length, but between [`Self::add`] and [`Self::next_message`].
    bytes: Vec<u8>,
}

impl Incoming {
    /// Takes what was read.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message that is complete. To be asked until there is none, after each piece.
    ///
    /// # Errors
    /// When no message has that length. What follows then makes no sense.
    pub fn next_message(&mut self) -> Result<Option<Vec<u8>>, InvalidLength> {
        let Some((length, rest)) = self.bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = checked(u16::from_be_bytes(*length).into())?;
        let Some(message) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        self.bytes.drain(..LENGTH_BYTES + length);
        Ok(Some(message))
    }
}

fn checked(length: usize) -> Result<usize, InvalidLength> {
    let possible = (HEADER_BYTES..=MAX_NAME_MESSAGE_BYTES).contains(&length);
    possible.then_some(length).ok_or(InvalidLength(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(incoming: &mut Incoming) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| incoming.next_message().unwrap()).collect()
    }

    proptest! {
        #[test]
        fn messages_come_whole_however_the_stream_is_cut(
            messages in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), HEADER_BYTES..200), 0..8),
            piece in 1..50_usize,
        ) {
            let stream: Vec<u8> =
                messages.iter().flat_map(|message| framed(message).unwrap()).collect();
            let mut incoming = Incoming::default();
            let mut came = Vec::new();
            for bytes in stream.chunks(piece) {
                incoming.add(bytes);
                came.extend(all(&mut incoming));
            }
            prop_assert_eq!(came, messages);
        }
    }

    #[test]
    fn what_is_too_short_or_too_long_is_no_message() {
        for length in [0, HEADER_BYTES - 1, MAX_NAME_MESSAGE_BYTES + 1, usize::from(u16::MAX)] {
            assert_eq!(framed(&vec![0; length]), None);
            let mut incoming = Incoming::default();
            incoming.add(&(length as u16).to_be_bytes());
            assert_eq!(incoming.next_message(), Err(InvalidLength(length)));
        }
        assert!(framed(&[0; MAX_NAME_MESSAGE_BYTES]).is_some());
    }
}
