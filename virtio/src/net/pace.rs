//! Taking turns with whoever the frames come from and go to.
//!
//! Each frame that is fetched by itself costs a wake-up, and the guest an exit or an interrupt: as
//! much as moving 64 KiB. Where much has come there is more behind it, and whoever has it may wait
//! for this very processor. So the others are let run once before the device goes to sleep; where
//! nobody waits for the processor that takes no time. A frame that comes alone, a request or its
//! answer, is never held up.

/// Less than one long frame, and more than many requests.
pub(super) const MUCH_BYTES: usize = 32 << 10;

/// How much was moved since the others had their turn.
#[derive(Debug, Default)]
pub(super) struct Pace {
    bytes: usize,
}

impl Pace {
    /// A frame was moved.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// There are no more frames: whether it is worth looking again, the others having had a turn.
    pub(super) fn look_again(&mut self) -> bool {
        let much = self.is_much();
        if much {
            std::thread::yield_now();
        }
        much
    }

    fn is_much(&mut self) -> bool {
        std::mem::take(&mut self.bytes) >= MUCH_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_get_a_turn_after_much_and_then_only_after_much_again() {
        let mut pace = Pace::default();
        assert!(!pace.look_again());
        pace.moved(1500);
        assert!(!pace.look_again());
        (0..40).for_each(|_| pace.moved(1500));
        assert!(pace.look_again());
        assert!(!pace.look_again());
        pace.moved(64 << 10);
        assert!(pace.look_again());
    }
}
