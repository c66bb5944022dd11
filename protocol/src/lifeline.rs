//! The lifeline: a vsock connection that the agent makes to the host as its first act and holds
//! as long as it lives. It tells the monitor that the guest is up, and how processes ended.
//!
//! Hostile: every frame. Fixed size, few kinds, no allocation. Whatever the guest claims here it
//! claims about itself only: that it is ready, and what its own processes' exit codes were.

use crate::bounds::PROTOCOL_VERSION;
use crate::id::ProcessToken;

/// The length of a frame in bytes: kind `u8`, flags `u8`, two zero bytes, code `u32`, token `u64`,
/// little-endian.
pub const LIFELINE_FRAME_BYTES: usize = 16;

const KIND_READY: u8 = 1;
const KIND_EXIT: u8 = 2;
const KIND_SUSPENDED: u8 = 3;
const FLAG_OOM: u8 = 1;
const FLAG_STILL: u8 = 1;

/// What the host says on the lifeline, a byte at a time: the machine is about to be saved. The
/// agent stops its containers, takes what was sent on the streams, answers
/// [`LifelineFrame::Suspended`], and does nothing any more.
pub const SUSPEND: u8 = b'S';
/// The second thing that the host says: it goes on. A lifeline that breaks instead is that of a
/// machine which was restored: the agent makes another.
pub const RESUME: u8 = b'R';
/// The third: the files that the guest's kernel remembers become too many for the monitor, which
/// holds each of them open. The agent has it forget what nobody uses.
pub const FORGET: u8 = b'F';

/// The fourth, with the signal's number in its lower bits: somebody on the host has sent the
/// container a signal, by the monitor's pid. It is for the container's first process.
const SIGNAL: u8 = 0x80;
/// `_NSIG`: signals are numbered from 1 to this.
const LAST_SIGNAL: u8 = 64;

/// The word for a signal. `None` when there is none of that number.
#[must_use]
pub fn signal_word(signal: u32) -> Option<u8> {
    let number = u8::try_from(signal).ok()?;
    (1..=LAST_SIGNAL).contains(&number).then_some(SIGNAL | number)
}

/// The signal that a word stands for. `None` when it says something else.
#[must_use]
pub fn signal_in(word: u8) -> Option<u32> {
    let number = word & !SIGNAL;
    (word & SIGNAL != 0 && (1..=LAST_SIGNAL).contains(&number)).then_some(number.into())
}

/// What the agent tells the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifelineFrame {
    /// The agent listens on its ports and speaks this version of the protocol.
    Ready {
        /// [`PROTOCOL_VERSION`] of the agent's build.
        version: u32,
    },
    /// A process ended, and all its output was sent before this frame.
    Exit {
        /// Which one.
        process: ProcessToken,
        /// As a shell has it: the exit code, or 128 + the signal. 0 to 255.
        code: u8,
        /// The OOM killer ended a process of its container.
        oom: bool,
    },
    /// The answer to [`SUSPEND`], after all output of before.
    Suspended {
        /// The containers stand still. False: they do not stop in time, and everything goes on.
        still: bool,
    },
}

/// Why sixteen bytes are not a lifeline frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLifelineFrame {
    /// The kind is none of those defined.
    #[error("Unknown kind {0}")]
    Kind(u8),
    /// A reserved byte is set, or a code is over 255.
    #[error("A reserved field is set")]
    Reserved,
}

impl LifelineFrame {
    /// The frame that an agent of this build sends first.
    #[must_use]
    pub const fn ready() -> Self {
        Self::Ready { version: PROTOCOL_VERSION }
    }

    /// The frame's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; LIFELINE_FRAME_BYTES] {
        let (kind, flags, code, token) = match self {
            Self::Ready { version } => (KIND_READY, 0, version, 0),
            Self::Exit { process, code, oom } => {
                (KIND_EXIT, if oom { FLAG_OOM } else { 0 }, u32::from(code), process.0)
            }
            Self::Suspended { still } => (KIND_SUSPENDED, if still { FLAG_STILL } else { 0 }, 0, 0),
        };
        let mut bytes = [0; LIFELINE_FRAME_BYTES];
        bytes[0] = kind;
        bytes[1] = flags;
        bytes[4..8].copy_from_slice(&code.to_le_bytes());
        bytes[8..16].copy_from_slice(&token.to_le_bytes());
        bytes
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// When the bytes are not exactly what [`Self::to_bytes`] makes.
    pub fn parse(bytes: [u8; LIFELINE_FRAME_BYTES]) -> Result<Self, InvalidLifelineFrame> {
        let [kind, flags, zero0, zero1, c0, c1, c2, c3, token @ ..] = bytes;
        let code = u32::from_le_bytes([c0, c1, c2, c3]);
        let token = u64::from_le_bytes(token);
        let reserved = InvalidLifelineFrame::Reserved;
        if zero0 != 0 || zero1 != 0 {
            return Err(reserved);
        }
        match kind {
            KIND_READY if flags == 0 && token == 0 => Ok(Self::Ready { version: code }),
            KIND_EXIT if flags & !FLAG_OOM == 0 => Ok(Self::Exit {
                process: ProcessToken(token),
                code: u8::try_from(code).map_err(|_| reserved)?,
                oom: flags & FLAG_OOM != 0,
            }),
            KIND_SUSPENDED if flags & !FLAG_STILL == 0 && code == 0 && token == 0 => {
                Ok(Self::Suspended { still: flags & FLAG_STILL != 0 })
            }
            KIND_READY | KIND_EXIT | KIND_SUSPENDED => Err(reserved),
            other => Err(InvalidLifelineFrame::Kind(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parsing_is_the_inverse_of_writing(bytes in any::<[u8; LIFELINE_FRAME_BYTES]>()) {
            if let Ok(frame) = LifelineFrame::parse(bytes) {
                prop_assert_eq!(frame.to_bytes(), bytes);
            }
        }

        #[test]
        fn every_exit_survives_the_journey(token in any::<u64>(), code in any::<u8>(), oom in any::<bool>()) {
            let frame = LifelineFrame::Exit { process: ProcessToken(token), code, oom };
            prop_assert_eq!(LifelineFrame::parse(frame.to_bytes()), Ok(frame));
        }
    }

    #[test]
    fn the_answer_to_a_suspension_survives_the_journey() {
        for still in [false, true] {
            let frame = LifelineFrame::Suspended { still };
            assert_eq!(LifelineFrame::parse(frame.to_bytes()), Ok(frame));
        }
    }

    #[test]
    fn every_signal_has_a_word_of_its_own() {
        for signal in 1..=64 {
            assert_eq!(signal_word(signal).and_then(signal_in), Some(signal));
        }
        assert_eq!([0, 65, 128 + 9, u32::MAX].map(signal_word), [None; 4]);
        assert_eq!([SUSPEND, RESUME, FORGET, 0x80, 0xff].map(signal_in), [None; 5]);
    }

    #[test]
    fn an_unknown_kind_is_named() {
        let mut bytes = LifelineFrame::ready().to_bytes();
        bytes[0] = 9;
        assert_eq!(LifelineFrame::parse(bytes), Err(InvalidLifelineFrame::Kind(9)));
    }
}
