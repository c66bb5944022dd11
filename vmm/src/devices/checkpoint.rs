//! The machine is saved: in which order, and who waits for whom.
//!
//! ```text
//!               hold input, SUSPEND          all streams settled
//!  (request) ───────────▶ Suspending ─Suspended▶ Settling ─────────▶ saved: Saved
//!                             │ late, not still      │ late, refused      │ Resume, or the client left
//!                             ▼                      ▼                    ▼
//!                         RESUME, go on reading input: as if nothing had been
//! ```
//!
//! Nothing may be on its way between a host's descriptor and a process when the machine is saved:
//! the connections end with the machine. So the host is read no more, the agent takes what was
//! sent, and what it has sent itself is written, before the vCPUs stop.
//!
//! Hostile: the agent's answer and its time. A guest that does not suspend is not saved, and runs
//! on.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::control::ClientId;

/// The agent gives its containers ten seconds to stand still.
const SUSPEND_TIME: Duration = Duration::from_secs(15);
/// A reader that takes the output, and a process that takes its input, do so at once.
const SETTLE_TIME: Duration = Duration::from_secs(10);

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The agent's answer is awaited until then.
    Suspending(Instant),
    /// What is on its way is awaited until then.
    Settling(Instant),
    /// The machine stands still.
    Saved,
}

/// A machine that is being saved.
#[derive(Debug)]
pub struct Checkpoint {
    /// Who asked for it.
    pub client: ClientId,
    /// Where it is.
    pub phase: Phase,
    /// Where the guest's memory goes.
    pub memory: File,
    /// Where the rest goes.
    pub state: File,
}

impl Checkpoint {
    /// Begins; `None` when the descriptors are not two.
    #[must_use]
    pub fn begin(client: ClientId, descriptors: Vec<OwnedFd>, now: Instant) -> Option<Self> {
        let [memory, state]: [OwnedFd; 2] = descriptors.try_into().ok()?;
        let phase = Phase::Suspending(now + SUSPEND_TIME);
        Some(Self { client, phase, memory: memory.into(), state: state.into() })
    }

    /// The agent has answered: true when it was asked and everything stands still.
    pub fn suspended(&mut self, still: bool, now: Instant) -> bool {
        if still && matches!(self.phase, Phase::Suspending(_)) {
            self.phase = Phase::Settling(now + SETTLE_TIME);
        }
        still
    }

    /// When it has taken too long.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Suspending(at) | Phase::Settling(at) => Some(at),
            Phase::Saved => None,
        }
    }

    /// Why it has taken too long, if it has.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Option<&'static str> {
        match self.phase {
            Phase::Suspending(at) if at <= now => {
                Some("The guest's agent did not suspend its containers in time")
            }
            Phase::Settling(at) if at <= now => Some(
                "Bytes of a standard stream are on their way: the container does not read its \
                 input, or nobody reads its output. Have them read, and try again",
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    #[test]
    fn two_descriptors_make_a_checkpoint() {
        let now = Instant::now();
        assert!(Checkpoint::begin(1, vec![file()], now).is_none());
        assert!(Checkpoint::begin(1, vec![file(), file(), file()], now).is_none());
        assert!(Checkpoint::begin(1, vec![file(), file()], now).is_some());
    }

    #[test]
    fn each_phase_is_overdue_in_its_own_words() {
        let now = Instant::now();
        let mut checkpoint = Checkpoint::begin(1, vec![file(), file()], now).unwrap();
        assert_eq!(checkpoint.overdue(now), None);
        assert!(checkpoint.overdue(now + SUSPEND_TIME).unwrap().contains("suspend"));
        assert!(!checkpoint.suspended(false, now));
        assert!(checkpoint.suspended(true, now));
        assert_eq!(checkpoint.deadline(), Some(now + SETTLE_TIME));
        assert!(checkpoint.overdue(now + SETTLE_TIME).unwrap().contains("stream"));
        checkpoint.phase = Phase::Saved;
        assert_eq!(checkpoint.overdue(now + SUSPEND_TIME * 10), None);
    }
}
