//! When a guest remembers more files than the server should hold open: it is asked to forget.
//!
//! ```text
//!  used:  0 ───────────── ¾ asked ─ +1/32 asked again ─ … ─ all: ENFILE for a file more
//! ```
//!
//! A guest's kernel forgets files when it wants memory, and one with much memory never does. The
//! request reaches the guest's agent by way of who waits for the event. Hostile: a guest that does
//! not forget meets the bound, as its own fault.

use std::os::fd::OwnedFd;

/// Asks in time for what was asked to be done before the bound is met.
#[derive(Debug)]
pub(super) struct Crowding {
    crowded: OwnedFd,
    most: usize,
    /// How many descriptors must be in use for it to ask.
    next: usize,
}

impl Crowding {
    /// Raises `crowded` when it becomes narrow among `most` descriptors.
    pub(super) fn new(crowded: OwnedFd, most: usize) -> Self {
        Self { crowded, most, next: threshold(most) }
    }

    /// So many are in use.
    pub(super) fn look(&mut self, used: usize) {
        if used < threshold(self.most) {
            self.next = threshold(self.most);
        } else if used >= self.next {
            self.next = used + (self.most / 32).max(1);
            // Raised already, if it cannot be raised.
            let _ = rustix::io::write(&self.crowded, &1u64.to_ne_bytes());
        }
    }
}

fn threshold(most: usize) -> usize {
    most - most / 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    fn asked(crowding: &mut Crowding, used: usize) -> bool {
        crowding.look(used);
        rustix::io::read(&crowding.crowded, &mut [0; 8]).is_ok()
    }

    fn crowding() -> Crowding {
        Crowding::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap(), 3200)
    }

    #[test]
    fn it_asks_at_three_quarters_and_again_when_that_did_not_help() {
        let mut crowding = crowding();
        assert!(!asked(&mut crowding, 2399));
        assert!(asked(&mut crowding, 2400));
        assert!(!asked(&mut crowding, 2400), "what was asked takes its time");
        assert!(!asked(&mut crowding, 2499));
        assert!(asked(&mut crowding, 2500));
    }

    #[test]
    fn when_room_was_made_it_begins_anew() {
        let mut crowding = crowding();
        assert!(asked(&mut crowding, 3000));
        assert!(!asked(&mut crowding, 100));
        assert!(asked(&mut crowding, 2400));
    }
}
