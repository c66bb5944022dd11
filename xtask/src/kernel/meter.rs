//! How far a build is: a bar on a terminal, a line now and then elsewhere.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

/// One line for every so many per cent where there is no terminal.
const PERCENT_PER_LINE: u64 = 10;

/// A job of about known length.
pub(super) struct Meter {
    /// Hidden where there is no terminal.
    bar: ProgressBar,
    what: &'static str,
    started: Instant,
    on_terminal: bool,
    /// The last per cent that had a line.
    reported: Cell<u64>,
}

impl Meter {
    /// Show that `what` begins.
    pub(super) fn start(what: &'static str, expected: u64) -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        let bar = if on_terminal { ProgressBar::new(expected) } else { ProgressBar::hidden() };
        bar.set_length(expected);
        // The template is constant: if it were wrong, the bar would look different, no more.
        if let Ok(style) =
            ProgressStyle::with_template("{prefix} [{bar:30}] {percent:>3}% {elapsed} {wide_msg}")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what);
        if !on_terminal {
            eprintln!("{what} ...");
        }
        Self { bar, what, started: Instant::now(), on_terminal, reported: Cell::new(0) }
    }

    /// Show that `done` units are, the last being `item`.
    pub(super) fn advance(&self, done: u64, item: &str) {
        let expected = self.bar.length().unwrap_or(1).max(1);
        self.bar.set_position(done.min(expected));
        self.bar.set_message(item.to_owned());
        let percent = (done * 100 / expected).min(99) / PERCENT_PER_LINE * PERCENT_PER_LINE;
        if !self.on_terminal && percent > self.reported.get() {
            self.reported.set(percent);
            eprintln!("{}: {percent}% after {} s", self.what, self.started.elapsed().as_secs());
        }
    }

    /// Take the bar away and say how long it took.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
        eprintln!("{}: {} s", self.what, self.started.elapsed().as_secs());
    }
}
