//! Something to look at while it takes: a spinner with the time on a terminal, one line for each
//! step elsewhere.

use std::io::{IsTerminal as _, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A step under way.
pub(crate) struct Step {
    what: String,
    started: Instant,
    spinner: Option<ProgressBar>,
}

/// Begins a step, e.g. `Building the agent`.
pub(crate) fn step(what: impl Into<String>) -> Step {
    let what = what.into();
    let spinner = stderr().is_terminal().then(|| {
        let spinner = ProgressBar::new_spinner();
        let template = "{spinner:.cyan} {msg} {elapsed:.dim}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            spinner.set_style(style);
        }
        spinner.set_message(what.clone());
        spinner.enable_steady_tick(Duration::from_millis(120));
        spinner
    });
    if spinner.is_none() {
        eprintln!("{what} ...");
    }
    Step { what, started: Instant::now(), spinner }
}

impl Step {
    /// The step is done. One that took no time to speak of leaves no line.
    pub(crate) fn done(self) {
        let elapsed = self.started.elapsed();
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        if elapsed >= Duration::from_secs(1) {
            eprintln!("{} took {} s", self.what, elapsed.as_secs());
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
