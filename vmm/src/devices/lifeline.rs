//! What the agent says on its lifeline, in the order in which it may say it.
//!
//! ```text
//!  Silent ──Ready(our version)──▶ Up ──Exit──▶ Up …
//!    └── anything else ──▶ refused        └── Ready again ──▶ refused
//! ```
//!
//! Hostile: every frame. A guest that breaks the order is lost, and breaks only itself.

use cofferdam_protocol::bounds::PROTOCOL_VERSION;
use cofferdam_protocol::id::ProcessToken;
use cofferdam_protocol::lifeline::{InvalidLifelineFrame, LIFELINE_FRAME_BYTES, LifelineFrame};

/// How many exits are kept of processes that nothing is attached to yet: the first process of a
/// container may end before its streams come. More are dropped, the oldest first.
const MAX_UNCLAIMED_EXITS: usize = 64;

/// Why a guest's lifeline cannot be trusted to mean anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LifelineError {
    /// Sixteen bytes that are no frame.
    #[error("The agent's lifeline carries an invalid frame")]
    Invalid(#[source] InvalidLifelineFrame),
    /// An agent of another build.
    #[error(
        "The agent speaks version {0} of the protocol, and the monitor {PROTOCOL_VERSION}: they are of different builds"
    )]
    Version(u32),
    /// It said that it was ready twice, or something else first.
    #[error("The agent's lifeline is out of order")]
    Order,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// As a shell has it.
    pub code: u8,
    /// The OOM killer had struck.
    pub oom: bool,
}

/// What a frame means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The agent is up.
    Ready,
    /// A process ended.
    Exit(ProcessToken, Exit),
    /// The agent does nothing any more; its containers stand still, or do not.
    Suspended {
        /// They do.
        still: bool,
    },
}

/// The lifeline of one guest.
#[derive(Debug, Default)]
pub struct Lifeline {
    up: bool,
    unclaimed: Vec<(ProcessToken, Exit)>,
}

impl Lifeline {
    /// Whether the agent has said that it is ready.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Takes one frame.
    ///
    /// # Errors
    /// When it is none, or comes out of order.
    pub fn take(&mut self, frame: [u8; LIFELINE_FRAME_BYTES]) -> Result<News, LifelineError> {
        match LifelineFrame::parse(frame).map_err(LifelineError::Invalid)? {
            LifelineFrame::Ready { version } if version != PROTOCOL_VERSION => {
                Err(LifelineError::Version(version))
            }
            LifelineFrame::Ready { .. } if !self.up => {
                self.up = true;
                Ok(News::Ready)
            }
            LifelineFrame::Exit { process, code, oom } if self.up => {
                Ok(News::Exit(process, Exit { code, oom }))
            }
            LifelineFrame::Suspended { still } if self.up => Ok(News::Suspended { still }),
            LifelineFrame::Ready { .. }
            | LifelineFrame::Exit { .. }
            | LifelineFrame::Suspended { .. } => Err(LifelineError::Order),
        }
    }

    /// Keeps an exit until someone asks for it.
    pub fn keep(&mut self, process: ProcessToken, exit: Exit) {
        if self.unclaimed.len() == MAX_UNCLAIMED_EXITS {
            self.unclaimed.remove(0);
        }
        self.unclaimed.push((process, exit));
    }

    /// Whether a process has ended already.
    pub fn claim(&mut self, process: ProcessToken) -> Option<Exit> {
        let index = self.unclaimed.iter().position(|(token, _)| *token == process)?;
        Some(self.unclaimed.remove(index).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit_frame(token: u64) -> [u8; LIFELINE_FRAME_BYTES] {
        LifelineFrame::Exit { process: ProcessToken(token), code: 3, oom: false }.to_bytes()
    }

    #[test]
    fn ready_comes_first_and_once() {
        let ready = LifelineFrame::ready().to_bytes();
        let mut lifeline = Lifeline::default();
        assert_eq!(lifeline.take(exit_frame(1)), Err(LifelineError::Order));
        assert_eq!(lifeline.take(ready), Ok(News::Ready));
        assert!(lifeline.is_up());
        assert_eq!(lifeline.take(ready), Err(LifelineError::Order));
        let exit = Exit { code: 3, oom: false };
        assert_eq!(lifeline.take(exit_frame(1)), Ok(News::Exit(ProcessToken(1), exit)));
    }

    #[test]
    fn an_agent_of_another_build_is_refused() {
        let frame = LifelineFrame::Ready { version: PROTOCOL_VERSION + 1 }.to_bytes();
        let refused = Lifeline::default().take(frame);
        assert_eq!(refused, Err(LifelineError::Version(PROTOCOL_VERSION + 1)));
    }

    #[test]
    fn an_early_exit_is_kept_for_who_asks_and_the_memory_is_bounded() {
        let mut lifeline = Lifeline::default();
        for token in 0..1000 {
            lifeline.keep(ProcessToken(token), Exit { code: 0, oom: false });
        }
        assert_eq!(lifeline.unclaimed.len(), MAX_UNCLAIMED_EXITS);
        assert!(lifeline.claim(ProcessToken(999)).is_some());
        assert!(lifeline.claim(ProcessToken(999)).is_none());
    }
}
