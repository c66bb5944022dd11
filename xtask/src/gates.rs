//! What a change has to pass: the same list before a push and in CI, where the end-to-end
//! scenarios come on top. Every gate runs, whatever the others say; the failures are listed at the
//! end, and the last line sums up.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Result;

use crate::tally::Tally;
use crate::{build, e2e, process, sizes, workspace};

/// A gate and what it counted.
struct Outcome {
    name: &'static str,
    result: Result<Tally>,
}

/// A gate's name, and how to run it.
type Gate = (&'static str, fn() -> Result<Tally>);

const QUICK: &[Gate] = &[
    ("format", format),
    ("clippy", clippy),
    ("unit and tidy tests", unit_tests),
    ("documentation", documentation),
    ("dependencies", dependencies),
];

const COMPLETE: &[Gate] =
    &[("build", complete_build), ("program sizes", sizes::gate), ("end to end", e2e::all)];

/// `cargo xtask prepush`: what takes minutes.
pub(crate) fn prepush() -> ExitCode {
    run(QUICK.iter().copied())
}

/// `cargo xtask test`: everything.
pub(crate) fn test() -> ExitCode {
    run(QUICK.iter().chain(COMPLETE).copied())
}

fn run(gates: impl Iterator<Item = Gate>) -> ExitCode {
    let mut outcomes = Vec::new();
    for (name, gate) in gates {
        eprintln!("=== {name}");
        let started = Instant::now();
        let result = gate();
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        eprintln!("=== {name}: {} s\n", started.elapsed().as_secs());
        outcomes.push(Outcome { name, result });
    }
    let sum = summary(&outcomes);
    // Alone on the last line, for who reads it by program.
    println!("{sum}");
    if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn summary(outcomes: &[Outcome]) -> Tally {
    let mut sum = Tally::default();
    eprintln!("=== summary");
    for Outcome { name, result } in outcomes {
        let tally = match result {
            Ok(tally) => *tally,
            Err(_) => Tally::one(false),
        };
        let verdict = if tally.failed == 0 { "ok" } else { "FAILED" };
        eprintln!("{name:<22} {verdict:<7} {tally}");
        sum += tally;
    }
    sum
}

fn succeeds(command: &mut Command) -> Result<Tally> {
    Ok(Tally::one(process::status(command)?.success()))
}

fn format() -> Result<Tally> {
    succeeds(workspace::cargo("fmt").args(["--all", "--check"]))
}

fn clippy() -> Result<Tally> {
    let arguments = ["--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"];
    succeeds(workspace::cargo("clippy").args(arguments))
}

/// Everything but the end-to-end scenarios, which need what `e2e` prepares.
fn unit_tests() -> Result<Tally> {
    let selection = ["--workspace", "--exclude", "cofferdam-e2e"];
    let mut command = if process::find("cargo-nextest").is_some() {
        let mut command = workspace::cargo("nextest");
        command.args(["run", "--no-fail-fast", "--status-level", "fail"]);
        command.args(["--final-status-level", "fail"]);
        command
    } else {
        let mut command = workspace::cargo("test");
        command.args(["--no-fail-fast", "--bins", "--lib", "--tests"]);
        command
    };
    let (output, status) = process::watched(command.args(selection))?;
    Ok(Tally::of_output(&output, status.success()))
}

/// The documentation has no broken link. There are no examples to run in it. It is built with
/// private items, so a link to one is no mistake.
fn documentation() -> Result<Tally> {
    let arguments = ["--workspace", "--no-deps", "--document-private-items", "--quiet"];
    let flags = "--deny warnings --allow rustdoc::private_intra_doc_links";
    succeeds(workspace::cargo("doc").args(arguments).env("RUSTDOCFLAGS", flags))
}

/// Licences, advisories and sources of the dependencies, by `deny.toml`.
fn dependencies() -> Result<Tally> {
    if process::find("cargo-deny").is_none() {
        eprintln!("skipped: cargo-deny is not installed");
        return Ok(Tally::skip());
    }
    succeeds(workspace::cargo("deny").arg("check"))
}

fn complete_build() -> Result<Tally> {
    build::ensure(build::Profile::Release)?;
    Ok(Tally::one(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_that_could_not_run_is_a_failure() {
        let outcomes = [
            Outcome { name: "one", result: Ok(Tally { passed: 5, failed: 0, skipped: 1 }) },
            Outcome { name: "two", result: Err(anyhow::anyhow!("reason")) },
        ];
        assert_eq!(summary(&outcomes), Tally { passed: 5, failed: 1, skipped: 1 });
    }
}
