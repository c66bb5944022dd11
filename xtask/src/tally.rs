//! How many passed, failed and were skipped, added up over everything that `test` runs.

use std::fmt;
use std::ops::AddAssign;

/// A count of outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Tally {
    /// They did what they should.
    pub(crate) passed: u64,
    /// They did not.
    pub(crate) failed: u64,
    /// They did not run.
    pub(crate) skipped: u64,
}

impl Tally {
    /// One check that passed or failed as a whole.
    pub(crate) fn one(passed: bool) -> Self {
        Self { passed: u64::from(passed), failed: u64::from(!passed), skipped: 0 }
    }

    /// One check that did not run.
    pub(crate) fn skip() -> Self {
        Self { skipped: 1, ..Self::default() }
    }

    /// Adds up the summaries in what test programs print, by libtest or nextest.
    ///
    /// A run that says that it failed and counts no failure, or counts nothing at all, did not
    /// get as far as counting: that is a failure too.
    pub(crate) fn of_output(output: &str, succeeded: bool) -> Self {
        let mut tally = Self::default();
        let mut summaries = 0;
        for line in output.lines() {
            if let Some(summary) = of_libtest(line).or_else(|| of_nextest(line)) {
                tally += summary;
                summaries += 1;
            }
        }
        if tally.failed == 0 && (!succeeded || summaries == 0) {
            tally.failed = 1;
        }
        tally
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`, and
/// not as nextest repeats it of a test that failed, indented.
fn of_libtest(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?;
    let counts = counts.split_once(". ")?.1;
    let count = |what: &str| number_before(counts, ';', what);
    Some(Tally {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored").unwrap_or(0),
    })
}

/// `Summary [   0.137s] 12 tests run: 11 passed (1 slow), 1 failed, 2 skipped`, where what is
/// skipped was filtered out by us, and a count of zero may be missing.
fn of_nextest(line: &str) -> Option<Tally> {
    let counts = line.trim().strip_prefix("Summary [")?.split_once("run: ")?.1;
    let count = |what: &str| number_before(counts, ',', what).unwrap_or(0);
    let failed = count("failed") + count("timed out") + count("exec failed");
    Some(Tally { passed: count("passed"), failed, skipped: 0 })
}

fn number_before(counts: &str, separator: char, what: &str) -> Option<u64> {
    counts.split(separator).find_map(|part| {
        let (number, rest) = part.trim().split_once(' ')?;
        let found = rest == what || rest.strip_prefix(what)?.starts_with(" (");
        found.then(|| number.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s";

    #[test]
    fn libtest_summaries_add_up() {
        let output = format!("running 3 tests\n{OK}\n\n{OK}\n");
        let tally = Tally::of_output(&output, true);
        assert_eq!(tally, Tally { passed: 6, failed: 0, skipped: 2 });
    }

    #[test]
    fn nextest_summaries_count_every_kind_of_failure() {
        let output = "     Summary [   1.5s] 9 tests run: 5 passed (2 slow, 1 leaky), 3 failed, 1 timed out, 7 skipped";
        let tally = Tally::of_output(output, false);
        assert_eq!(tally, Tally { passed: 5, failed: 4, skipped: 0 });
    }

    #[test]
    fn what_nextest_repeats_of_a_failure_is_not_another_one() {
        let output = "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out\n\
                      \u{20}    Summary [   1.5s] 9 tests run: 8 passed, 1 failed, 0 skipped";
        let tally = Tally::of_output(output, false);
        assert_eq!(tally, Tally { passed: 8, failed: 1, skipped: 0 });
    }

    #[test]
    fn a_run_that_counted_nothing_failed() {
        assert_eq!(Tally::of_output("error: could not compile", false).failed, 1);
        assert_eq!(Tally::of_output("", true).failed, 1);
        assert_eq!(Tally::of_output(OK, false).failed, 1);
    }

    #[test]
    fn it_reads_as_one_line() {
        let tally = Tally { passed: 2, failed: 1, skipped: 0 };
        assert_eq!(tally.to_string(), "2 passed, 1 failed, 0 skipped");
    }
}
