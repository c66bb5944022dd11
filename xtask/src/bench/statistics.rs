//! What a monitor counts of its machine.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Its answer.
#[derive(Debug)]
pub(super) struct Statistics(Value);

impl Statistics {
    /// Asks the monitor of the container with this folder of states: one frame to its control
    /// socket, one back. A frame is a little-endian length and JSON (`protocol::frame`,
    /// `protocol::control`).
    pub(super) fn of(state: &Path) -> Result<Self> {
        let path = state.join("control.sock");
        let mut stream = UnixStream::connect(&path)
            .with_context(|| format!("Could not connect to {}", path.display()))?;
        let request = br#""statistics""#;
        let mut frame = u32::try_from(request.len())?.to_le_bytes().to_vec();
        frame.extend(request);
        stream.write_all(&frame)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut answer = Vec::new();
        stream.take(u64::from(u32::from_le_bytes(length))).read_to_end(&mut answer)?;
        let answer: Value = serde_json::from_slice(&answer)?;
        Ok(Self(answer["statistics"].clone()))
    }

    /// One figure by its name.
    pub(super) fn figure(&self, name: &str) -> Result<u64> {
        self.0[name].as_u64().with_context(|| format!("The monitor's statistics: {}", self.0))
    }
}
