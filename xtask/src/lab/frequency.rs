//! How fast the lab's clock runs: the frequency of the counter that it is told.
//!
//! Its kernel would find out by itself, by comparing two clocks in a short loop. On a busy machine
//! QEMU is interrupted in that loop, and the result can be wrong by a factor of twenty; then every
//! deadline in the lab is over as many times too early. So it is measured here, and told.

use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

/// With instructions counted, the counter is the clock: one tick for each nanosecond.
const COUNTING_INSTRUCTIONS: u64 = 1_000_000;

/// Long enough for an error of 10 microseconds to be one in ten thousand.
const APART: Duration = Duration::from_millis(100);
/// A reading that took longer than this was interrupted.
const AT_ONCE: Duration = Duration::from_micros(5);
const READINGS: usize = 1000;

/// In kHz, of the counter that QEMU shows the lab: this machine's, or virtual time.
pub(super) fn of_the_counter(icount: bool) -> u64 {
    if icount {
        return COUNTING_INSTRUCTIONS;
    }
    let first = Reading::at_once();
    thread::sleep(APART);
    first.frequency(&Reading::at_once())
}

/// The counter and the clock at one moment.
struct Reading {
    ticks: u64,
    time: Instant,
    took: Duration,
}

impl Reading {
    /// Of some readings the first that was not interrupted, or the one that took least.
    fn at_once() -> Self {
        let mut best = Self::take();
        for _ in 1..READINGS {
            if best.took <= AT_ONCE {
                break;
            }
            let next = Self::take();
            if next.took < best.took {
                best = next;
            }
        }
        best
    }

    fn take() -> Self {
        let time = Instant::now();
        let ticks = sys::time_stamp();
        Self { ticks, time, took: time.elapsed() }
    }

    fn frequency(&self, later: &Self) -> u64 {
        let microseconds = later.time.duration_since(self.time).as_micros().max(1);
        let ticks = u128::from(later.ticks.saturating_sub(self.ticks));
        u64::try_from(ticks * 1000 / microseconds).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frequency_is_ticks_for_each_millisecond() {
        let time = Instant::now();
        let reading = |ticks, later| Reading {
            ticks,
            time: time + Duration::from_millis(later),
            took: Duration::ZERO,
        };
        assert_eq!(reading(1_000, 0).frequency(&reading(230_001_000, 100)), 2_300_000);
        assert_eq!(reading(5, 0).frequency(&reading(5, 100)), 0);
    }

    #[test]
    fn two_measurements_agree() {
        let [one, other] = [false; 2].map(of_the_counter);
        assert!(one.abs_diff(other) < one / 1000, "{one} kHz and {other} kHz");
    }
}
