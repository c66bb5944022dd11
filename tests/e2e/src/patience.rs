//! Waiting for what comes by itself.

use std::thread;
use std::time::{Duration, Instant};

/// On a processor in software, under load.
const PATIENCE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until it is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not so: {what}");
        thread::sleep(PAUSE);
    }
}

/// Waits until nothing is left of what this finds.
#[track_caller]
pub(crate) fn until_nothing_is_left(left: impl Fn() -> Vec<String>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let left = left();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "left behind: {left:#?}");
        thread::sleep(PAUSE);
    }
}
