//! What came of scenarios: how many did what, and of those that failed what each said, to be read
//! again at the end of a log of an hour.

use std::fmt;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::tally::Tally;

/// What a panic says comes first; of what follows this much is for the summary.
const MAX_SAID: usize = 1500;
/// What libtest prints behind a panic's words, for whoever reads the whole log.
const BACKTRACE: &str = "stack backtrace:";

/// The outcomes of some programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// How many.
    pub(super) tally: Tally,
    /// Which failed, and how.
    pub(super) failures: Vec<Failure>,
}

/// A scenario that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    /// Its program, mode and place.
    title: String,
    /// Its name.
    scenario: String,
    /// The beginning of what it said.
    said: String,
}

impl Failure {
    /// Of what a scenario said.
    pub(super) fn new(title: &str, scenario: &str, said: &str) -> Self {
        let words = said.split(BACKTRACE).next().unwrap_or_default().trim();
        Self {
            title: title.to_owned(),
            scenario: scenario.to_owned(),
            said: words.chars().take(MAX_SAID).collect(),
        }
    }
}

impl Outcome {
    /// Counts, and nothing to say.
    pub(super) fn counted(tally: Tally) -> Self {
        Self { tally, failures: Vec::new() }
    }
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.tally += other.tally;
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { title, scenario, said } = self;
        write!(f, "--- {title}: {scenario}\n{said}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_failure_the_beginning_of_its_words_is_kept_and_no_backtrace() {
        let said = "\nthread 'a' panicked:\nleft == right\nstack backtrace:\n   0: rust\n";
        let failure = Failure::new("exec [microvm, lab]", "a", said);
        assert_eq!(
            failure.to_string(),
            "--- exec [microvm, lab]: a\nthread 'a' panicked:\nleft == right"
        );
        let long = Failure::new("t", "a", &"é".repeat(MAX_SAID + 1));
        assert_eq!(long.said, "é".repeat(MAX_SAID));
    }
}
