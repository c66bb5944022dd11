//! A process's standard streams: one vsock connection each, from the monitor to the agent's
//! [`STREAM_PORT`](crate::bounds::STREAM_PORT), opened with a header that says whose and which.
//!
//! After the header the bytes are the stream's own. End of file is a half-close: the monitor shuts
//! its sending side when the host's stdin ends, the agent when the process's output ends; neither
//! cuts the other direction.
//!
//! Hostile, for the agent: nothing (the monitor is more trusted than the guest). For the monitor:
//! every byte after the header, which it passes on and never reads.

use crate::id::ProcessToken;

/// The length of the header in bytes: magic `u32`, kind `u32`, token `u64`, little-endian.
pub const STREAM_HEADER_BYTES: usize = 16;

const MAGIC: u32 = u32::from_le_bytes(*b"cof1");

/// Which stream of a process a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Host to guest.
    Stdin = 0,
    /// Guest to host.
    Stdout = 1,
    /// Guest to host.
    Stderr = 2,
    /// Both ways: the terminal's master side.
    Terminal = 3,
    /// Host to guest: [`TerminalSize`] frames, the last one counts.
    TerminalSize = 4,
}

/// What a stream connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    /// Whose stream.
    pub process: ProcessToken,
    /// Which.
    pub kind: StreamKind,
}

/// The bytes are not a stream header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Not a stream header")]
pub struct InvalidStreamHeader;

impl StreamHeader {
    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; STREAM_HEADER_BYTES] {
        let mut bytes = [0; STREAM_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.process.0.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// When the magic or the kind is wrong.
    pub fn parse(bytes: [u8; STREAM_HEADER_BYTES]) -> Result<Self, InvalidStreamHeader> {
        let [m0, m1, m2, m3, k0, k1, k2, k3, token @ ..] = bytes;
        if u32::from_le_bytes([m0, m1, m2, m3]) != MAGIC {
            return Err(InvalidStreamHeader);
        }
        let kind = match u32::from_le_bytes([k0, k1, k2, k3]) {
            0 => StreamKind::Stdin,
            1 => StreamKind::Stdout,
            2 => StreamKind::Stderr,
            3 => StreamKind::Terminal,
            4 => StreamKind::TerminalSize,
            _ => return Err(InvalidStreamHeader),
        };
        Ok(Self { process: ProcessToken(u64::from_le_bytes(token)), kind })
    }
}

/// A terminal's size in characters, as `TIOCSWINSZ` takes it: rows `u16`, columns `u16`,
/// little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl TerminalSize {
    /// The length of a frame in bytes.
    pub const BYTES: usize = 4;

    /// The frame's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let [r0, r1] = self.rows.to_le_bytes();
        let [c0, c1] = self.columns.to_le_bytes();
        [r0, r1, c0, c1]
    }

    /// Reads a frame. Every four bytes are a size.
    #[must_use]
    pub fn from_bytes([r0, r1, c0, c1]: [u8; Self::BYTES]) -> Self {
        Self { rows: u16::from_le_bytes([r0, r1]), columns: u16::from_le_bytes([c0, c1]) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parsing_is_the_inverse_of_writing(bytes in any::<[u8; STREAM_HEADER_BYTES]>()) {
            if let Ok(header) = StreamHeader::parse(bytes) {
                prop_assert_eq!(header.to_bytes(), bytes);
            }
        }

        #[test]
        fn a_size_survives_the_journey(rows in any::<u16>(), columns in any::<u16>()) {
            let size = TerminalSize { rows, columns };
            prop_assert_eq!(TerminalSize::from_bytes(size.to_bytes()), size);
        }
    }

    #[test]
    fn every_kind_survives_the_journey() {
        use StreamKind::*;
        for kind in [Stdin, Stdout, Stderr, Terminal, super::StreamKind::TerminalSize] {
            let header = StreamHeader { process: ProcessToken(7), kind };
            assert_eq!(StreamHeader::parse(header.to_bytes()), Ok(header));
        }
    }

    #[test]
    fn a_wrong_magic_is_refused() {
        assert_eq!(StreamHeader::parse([0; STREAM_HEADER_BYTES]), Err(InvalidStreamHeader));
    }
}
