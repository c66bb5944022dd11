//! One run of a program of scenarios: what it printed, what that counts, and which of its
//! scenarios failed for no fault of theirs.

use super::outcome::{Failure, Outcome};
use crate::tally::Tally;

/// What the runtime says of a guest that died. On a processor in software, whose known faults
/// (`docs/lab.md`) end about one guest in 150, it says so of guests that did nothing wrong.
const GUEST_DIED: &str = "The guest shut down or reset";

/// A program that ran.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// stdout and stderr, in one order.
    pub(super) output: String,
    /// Its outcomes.
    pub(super) tally: Tally,
}

impl Attempt {
    /// Of what a program printed, and whether it succeeded.
    pub(super) fn new(output: String, succeeded: bool) -> Self {
        let tally = Tally::of_output(&output, succeeded);
        Self { output, tally }
    }

    /// One that could not be made.
    pub(super) fn impossible(error: &anyhow::Error) -> Self {
        Self { output: format!("{error:#}\n"), tally: Tally::one(false) }
    }

    /// The scenarios that failed because a guest died. None when another one failed as well: the
    /// program has failed then, whatever these would do.
    pub(super) fn lost_guests(&self) -> Vec<&str> {
        let failures = failures(&self.output);
        let counted = u64::try_from(failures.len()).is_ok_and(|n| n == self.tally.failed);
        if !counted || failures.iter().any(|(_, said)| !said.contains(GUEST_DIED)) {
            return Vec::new();
        }
        failures.into_iter().map(|(name, _)| name).collect()
    }

    /// What is kept of it, under its program's title.
    pub(super) fn outcome(&self, title: &str) -> Outcome {
        let failure = |(name, said)| Failure::new(title, name, said);
        let failures = failures(&self.output).into_iter().map(failure).collect();
        Outcome { tally: self.tally, failures }
    }

    /// This one, with the outcomes of the scenarios that failed replaced by those of another try.
    pub(super) fn amended_by(mut self, again: Self) -> Self {
        self.tally.failed = 0;
        self.tally += again.tally;
        Self { output: again.output, tally: self.tally }
    }
}

/// The scenarios that failed with what each said, from libtest's `---- NAME stdout ----` sections.
fn failures(output: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = output;
    while let Some((_, section)) = rest.split_once("\n---- ") {
        let Some((name, said)) = section.split_once(" stdout ----\n") else { break };
        let end = said.find("\n---- ").or_else(|| said.find("\nfailures:\n"));
        found.push((name, &said[..end.unwrap_or(said.len())]));
        rest = said;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIED: &str = "thread 'b' panicked: The guest was lost: The guest shut down or reset\n";
    const WRONG: &str = "thread 'c' panicked: left == right\n";

    fn attempt(failed: &[(&str, &str)]) -> Attempt {
        let mut output = "running 5 tests\ntest a ... ok\n\nfailures:\n".to_owned();
        for (name, said) in failed {
            output.push_str(&format!("\n---- {name} stdout ----\n{said}"));
        }
        let (passed, failed) = (5 - failed.len(), failed.len());
        output.push_str("\nfailures:\n    b\n    c\n\n");
        output.push_str(&format!(
            "test result: FAILED. {passed} passed; {failed} failed; 0 ignored\n"
        ));
        Attempt::new(output, false)
    }

    #[test]
    fn scenarios_whose_guests_died_are_named() {
        assert_eq!(attempt(&[("b", DIED)]).lost_guests(), ["b"]);
        assert_eq!(attempt(&[("b", DIED), ("d", DIED)]).lost_guests(), ["b", "d"]);
    }

    #[test]
    fn a_scenario_that_failed_for_another_reason_is_no_lost_guest_nor_are_those_beside_it() {
        assert!(attempt(&[("c", WRONG)]).lost_guests().is_empty());
        assert!(attempt(&[("b", DIED), ("c", WRONG)]).lost_guests().is_empty());
        assert!(attempt(&[("c", WRONG), ("b", DIED)]).lost_guests().is_empty());
    }

    #[test]
    fn a_program_that_did_not_come_to_its_end_has_no_lost_guests() {
        let cut = format!("failures:\n\n---- b stdout ----\n{DIED}\n---- c st");
        assert_eq!(Attempt::new(cut, false).lost_guests(), ["b"]);
        assert!(Attempt::new("killed".to_owned(), false).lost_guests().is_empty());
        assert!(Attempt::impossible(&anyhow::anyhow!("no such file")).lost_guests().is_empty());
    }

    #[test]
    fn another_try_takes_the_place_of_what_failed() {
        let again = "test result: ok. 1 passed; 0 failed; 0 ignored\n".to_owned();
        let amended = attempt(&[("b", DIED)]).amended_by(Attempt::new(again, true));
        assert_eq!(amended.tally, Tally { passed: 5, failed: 0, skipped: 0 });
        let amended = attempt(&[("b", DIED)]).amended_by(attempt(&[("b", DIED)]));
        assert_eq!(amended.tally.failed, 1);
    }
}
