//! One framing for every stream of ours: a little-endian `u32` length, then that many bytes of
//! JSON.
//!
//! Hostile: the length and the bytes. The reader is given a bound and allocates at most that.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side closed the stream before a frame began.
    #[error("The stream ended")]
    End,
    /// The length is over the bound: not read.
    #[error("A frame of {length} bytes is over the bound of {bound}")]
    TooLong {
        /// What the sender announced.
        length: usize,
        /// What the reader takes.
        bound: usize,
    },
    /// The bytes are not the document expected.
    #[error("The frame does not parse")]
    Parse(#[source] serde_json::Error),
    /// The stream failed, or ended within a frame.
    #[error("The stream failed")]
    Io(#[source] io::Error),
}

/// Writes one document as one frame, in one `write` where the stream takes it whole.
///
/// # Errors
/// [`FrameError::TooLong`] when it would not be taken by a reader with this `bound`.
pub fn write_frame<T: Serialize>(
    mut stream: impl Write,
    document: &T,
    bound: usize,
) -> Result<(), FrameError> {
    let frame = encode(document, bound)?;
    stream.write_all(&frame).map_err(FrameError::Io)
}

/// The bytes of one frame, for a caller that sends descriptors beside them.
///
/// # Errors
/// [`FrameError::TooLong`] when the document is over `bound`.
pub fn encode<T: Serialize>(document: &T, bound: usize) -> Result<Vec<u8>, FrameError> {
    let body = serde_json::to_vec(document).map_err(FrameError::Parse)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length as usize <= bound);
    let Some(length) = length else {
        return Err(FrameError::TooLong { length: body.len(), bound });
    };
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Reads one frame of at most `bound` bytes.
///
/// # Errors
/// [`FrameError::End`] at the end of the stream; the others as they say.
pub fn read_frame<T: DeserializeOwned>(
    mut stream: impl Read,
    bound: usize,
) -> Result<T, FrameError> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(FrameError::End),
        Err(error) => return Err(FrameError::Io(error)),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > bound {
        return Err(FrameError::TooLong { length, bound });
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).map_err(FrameError::Io)?;
    serde_json::from_slice(&body).map_err(FrameError::Parse)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut stream = Vec::new();
        write_frame(&mut stream, &vec!["a", "b"], 64).unwrap();
        let read: Vec<String> = read_frame(stream.as_slice(), 64).unwrap();
        assert_eq!(read, ["a", "b"]);
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_it_is_allocated() {
        let stream = u32::MAX.to_le_bytes();
        let error = read_frame::<Vec<String>>(stream.as_slice(), 64).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { length: 0xffff_ffff, bound: 64 }));
    }

    #[test]
    fn an_ended_stream_and_a_cut_frame_differ() {
        assert!(matches!(read_frame::<u8>([].as_slice(), 64), Err(FrameError::End)));
        assert!(matches!(read_frame::<u8>([9, 0, 0, 0, 1].as_slice(), 64), Err(FrameError::Io(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = read_frame::<serde_json::Value>(bytes.as_slice(), 128);
        }
    }
}
