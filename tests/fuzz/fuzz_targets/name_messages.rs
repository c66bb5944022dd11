//! What a guest sends on the stream of its questions for names, cut into pieces of any length.
#![no_main]

use cofferdam_protocol::bounds::MAX_NAME_MESSAGE_BYTES;
use cofferdam_protocol::names::{HEADER_BYTES, Incoming, framed};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((piece, stream)) = bytes.split_first() else { return };
    let mut incoming = Incoming::default();
    let mut taken = 0;
    for piece in stream.chunks(usize::from(*piece).max(1)) {
        incoming.add(piece);
        loop {
            match incoming.next_message() {
                Ok(Some(message)) => {
                    assert!((HEADER_BYTES..=MAX_NAME_MESSAGE_BYTES).contains(&message.len()));
                    // Nothing is made up and nothing left out.
                    let frame = framed(&message).unwrap();
                    assert_eq!(stream[taken..taken + frame.len()], frame);
                    taken += frame.len();
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
