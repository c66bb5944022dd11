//! A list of compiled scenario programs, and running them one after the other. The list is a file
//! when they run in the lab: the same code reads it there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::process;
use crate::tally::Tally;

/// `cargo xtask suite`: what `e2e` runs in the lab.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A [`Suite`] in JSON
    plan: PathBuf,
    /// Where its [`Tally`] goes
    report: PathBuf,
}

/// What a scenario's containers run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    /// Hardened namespaces.
    Namespace,
    /// A guest kernel of their own.
    Microvm,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Microvm => "microvm",
        }
    }

    /// Whether a program has scenarios for this mode: its name says when it has for one only.
    pub(super) fn has(self, program: &Path) -> bool {
        let name = name_of(program);
        match self {
            Self::Namespace => !name.starts_with("microvm_"),
            Self::Microvm => !name.starts_with("namespace_"),
        }
    }
}

/// A program's name, without the folder and the hash that cargo adds.
pub(super) fn name_of(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once('-').map_or_else(|| name.to_string(), |(name, _)| name.to_owned())
}

/// One program in one mode.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Run {
    /// What its containers run in.
    pub(super) mode: Mode,
    /// The compiled program.
    pub(super) program: PathBuf,
}

/// Programs to run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Suite {
    /// Where, for people.
    pub(super) place: String,
    /// In order.
    pub(super) runs: Vec<Run>,
    /// Set for each.
    pub(super) environment: Vec<(String, PathBuf)>,
    /// Only the scenarios with this in their name.
    pub(super) filter: Option<String>,
    /// A program with microVMs that fails is run again, and says so: on a processor in software,
    /// whose known faults (`docs/lab.md`) end about one guest in 150. What fails twice has failed.
    pub(super) second_chance: bool,
}

/// The slowest program takes two minutes in the lab: one that takes this long hangs.
const PROGRAM_LIMIT_SECONDS: u32 = 600;

/// `cargo xtask suite`.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let plan = fs::read(&arguments.plan)
        .with_context(|| format!("Could not read {}", arguments.plan.display()))?;
    let suite: Suite = serde_json::from_slice(&plan).context("The plan")?;
    let tally = suite.run_here();
    fs::write(&arguments.report, serde_json::to_vec(&tally)?)
        .with_context(|| format!("Could not write {}", arguments.report.display()))?;
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Suite {
    /// Runs everything on this machine.
    pub(super) fn run_here(&self) -> Tally {
        let mut sum = Tally::default();
        for run in &self.runs {
            let title = format!("{} [{}, {}]", name_of(&run.program), run.mode.name(), self.place);
            println!("--- {title}");
            let started = Instant::now();
            let mut tally = self.run_once(run);
            if tally.failed > 0 && self.second_chance && run.mode == Mode::Microvm {
                println!("--- {title}: failed once ({tally}), and again from the start:");
                tally = self.run_once(run);
            }
            let seconds = started.elapsed().as_secs();
            let verdict = if tally.failed == 0 { "ok" } else { "FAILED" };
            println!("--- {title}: {verdict}: {tally} ({seconds} s)\n");
            sum += tally;
        }
        sum
    }

    fn run_once(&self, run: &Run) -> Tally {
        self.run_program(run).unwrap_or_else(|error| {
            println!("{error:#}");
            Tally::one(false)
        })
    }

    fn run_program(&self, run: &Run) -> Result<Tally> {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=10", &PROGRAM_LIMIT_SECONDS.to_string()]).arg(&run.program);
        command.args(["--test-threads", "2"]).args(&self.filter);
        command.env("COFFERDAM_MODE", run.mode.name());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let (output, status) = process::watched(&mut command)?;
        Ok(Tally::of_output(&output, status.success()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_named_after_a_mode_runs_in_that_mode_only() {
        let modes =
            |path: &str| [Mode::Namespace, Mode::Microvm].map(|mode| mode.has(Path::new(path)));
        assert_eq!(modes("/t/lifecycle-0123456789abcdef"), [true, true]);
        assert_eq!(modes("/t/microvm_guest_image-0123456789abcdef"), [false, true]);
        assert_eq!(modes("/t/namespace_hardening-0123456789abcdef"), [true, false]);
    }

    #[test]
    fn a_program_that_cannot_run_is_a_failure() {
        let suite = Suite {
            place: "here".to_owned(),
            runs: vec![Run { mode: Mode::Namespace, program: PathBuf::from("/nonexistent-1") }],
            environment: Vec::new(),
            filter: None,
            second_chance: true,
        };
        assert_eq!(suite.run_here(), Tally::one(false));
    }

    #[test]
    fn a_second_chance_is_one_and_only_where_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("scenario-1");
        // It fails the first time and the third.
        let script = "#!/bin/sh\necho >> \"$0.runs\"\n[ $(wc -l < \"$0.runs\") = 2 ] || exit\n\
                      echo 'test result: ok. 1 passed; 0 failed; 0 ignored'\n";
        fs::write(&program, script).unwrap();
        let made = Command::new("chmod").arg("755").arg(&program).status().unwrap();
        assert!(made.success());
        let suite = |second_chance| Suite {
            place: "here".to_owned(),
            runs: vec![Run { mode: Mode::Microvm, program: program.clone() }],
            environment: Vec::new(),
            filter: None,
            second_chance,
        };
        assert_eq!(suite(true).run_here().failed, 0);
        assert_eq!(suite(false).run_here().failed, 1);
    }
}
