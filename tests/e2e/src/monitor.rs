//! What a container's monitor says of itself, over its control socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::Container;

const REQUEST: &[u8] = br#""statistics""#;

/// The resident memory of the container's monitor in KiB, guest memory not counted.
#[must_use]
pub fn monitor_kib(container: &Container<'_>) -> u64 {
    let socket = container.runtime.root().join(&container.id).join("control.sock");
    let mut stream = UnixStream::connect(socket).unwrap();
    // A frame is a little-endian length and JSON (`protocol::frame`).
    let mut frame = (REQUEST.len() as u32).to_le_bytes().to_vec();
    frame.extend(REQUEST);
    stream.write_all(&frame).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = Vec::new();
    stream.take(u32::from_le_bytes(length).into()).read_to_end(&mut answer).unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    answer["statistics"]["monitor_kib"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}
