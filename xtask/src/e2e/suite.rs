//! A list of compiled scenario programs, and running them one after the other. The list is a file
//! when they run in the lab: the same code reads it there.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::attempt::Attempt;
use super::outcome::Outcome;
use crate::process;
use crate::tally::Tally;

/// `cargo xtask suite`: what `e2e` runs in the lab.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A [`Suite`] in JSON
    plan: PathBuf,
    /// Where its [`Progress`] goes, after each program
    report: PathBuf,
    /// What is written to as long as this runs
    heartbeat: PathBuf,
}

/// How far a suite has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Programs that ran to their end.
    pub(super) done: usize,
    /// What came of them.
    pub(super) outcome: Outcome,
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

/// Whether a program compares engines' words, which are the same on any machine: what it says of namespaces
/// here it need not say in the lab again, where that takes six minutes.
pub(super) fn is_compared_once(program: &Path) -> bool {
    name_of(program).ends_with("_beside_runc")
}

/// What takes minutes in the lab: it comes first, in a lab of its own, so that those who work side by side
/// end at about the same time.
const SLOW: [&str; 4] = ["docker", "podman", "microvm_machine", "microvm_stack"];

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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Suite {
    /// Where, for people.
    pub(super) place: String,
    /// In order.
    pub(super) runs: Vec<Run>,
    /// Set for each.
    pub(super) environment: Vec<(String, PathBuf)>,
    /// Only the scenarios with this in their name.
    pub(super) filter: Option<String>,
    /// The processor is one in software: a scenario that failed because its guest died is run
    /// again, alone and in plain sight. What fails for any other reason has failed.
    pub(super) guests_may_die: bool,
    /// What they print is shown as it comes.
    pub(super) watched: bool,
}

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// Why a program's scenarios cannot be run where this is, with its control groups in that folder.
fn obstacle(program: &Path, groups: &Path) -> Option<&'static str> {
    let name = name_of(program);
    if name.ends_with("_v2") && !groups.join("cgroup.controllers").exists() {
        Some("skipped: they take cgroup v2, and this machine has v1")
    } else if name.ends_with("_criu") && !has_criu() {
        Some("skipped: `criu check` fails here")
    } else {
        None
    }
}

/// As many as the program has; one that cannot say so has failed.
fn skipped(program: &Path) -> Tally {
    let mut command = Command::new(program);
    let listed = process::output(command.args(["--list", "--format", "terse"]));
    let count = |text: String| text.lines().filter(|line| line.ends_with(": test")).count();
    match listed.map(count) {
        Ok(count) if count > 0 => Tally { skipped: count as u64, ..Tally::default() },
        _ => Tally::one(false),
    }
}

/// The slowest program takes five minutes in a lab of its own, and was seen to take ten on a busy
/// machine with another lab beside it: one that takes this long hangs.
const PROGRAM_LIMIT_SECONDS: u32 = 1200;
const HEARTBEAT: Duration = Duration::from_secs(5);
/// With one guest in 150 dying, a scenario of three guests dies in all its tries once in 10^5.
const FURTHER_CHANCES: usize = 2;

/// `cargo xtask suite`.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let plan = fs::read(&arguments.plan)
        .with_context(|| format!("Could not read {}", arguments.plan.display()))?;
    let suite: Suite = serde_json::from_slice(&plan).context("The plan")?;
    beat(arguments.heartbeat.clone());
    let mut progress = Progress::default();
    for run in &suite.runs {
        progress.outcome += suite.run_with_further_chances(run);
        progress.done += 1;
        fs::write(&arguments.report, serde_json::to_vec(&progress)?)
            .with_context(|| format!("Could not write {}", arguments.report.display()))?;
    }
    Ok(if progress.outcome.tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Until the process ends.
fn beat(heartbeat: PathBuf) {
    thread::spawn(move || {
        loop {
            // One that cannot be written is a machine that does not work.
            let _ = fs::write(&heartbeat, "beats");
            thread::sleep(HEARTBEAT);
        }
    });
}

impl Suite {
    /// Without the first programs.
    pub(super) fn from(&self, done: usize) -> Self {
        let runs = self.runs.get(done..).unwrap_or_default().to_vec();
        Self { runs, ..self.clone() }
    }

    /// The same programs in suites of at most so many, the slow ones first and alone.
    pub(super) fn in_parts(self, size: usize) -> Vec<Self> {
        let is_slow = |run: &Run| SLOW.contains(&name_of(&run.program).as_str());
        let (slow, others): (Vec<Run>, Vec<Run>) = self.runs.iter().cloned().partition(is_slow);
        let part = |runs: &[Run]| Self { runs: runs.to_vec(), ..self.clone() };
        slow.chunks(1).chain(others.chunks(size)).map(part).collect()
    }

    /// Runs everything on this machine. A program that passes is one line.
    pub(super) fn run_here(&self) -> Outcome {
        let mut sum = Outcome::default();
        for run in &self.runs {
            sum += self.run_with_further_chances(run);
        }
        sum
    }

    fn run_with_further_chances(&self, run: &Run) -> Outcome {
        let title = format!("{} [{}, {}]", name_of(&run.program), run.mode.name(), self.place);
        if let Some(reason) = obstacle(&run.program, Path::new(GROUPS)) {
            let tally = skipped(&run.program);
            print_at_once(&format!("--- {title}: {reason}: {tally}\n"));
            return Outcome::counted(tally);
        }
        let started = Instant::now();
        let mut attempt = self.attempt(run, None);
        for _ in 0..self.further_chances(run.mode) {
            let lost = attempt.lost_guests();
            if lost.is_empty() {
                break;
            }
            print_at_once(&format!(
                "{}--- {title}: again, since guests died: {}\n",
                self.not_yet_shown(&attempt.output),
                lost.join(" ")
            ));
            let again = self.attempt(run, Some(&lost));
            attempt = attempt.amended_by(again);
        }
        let outcome = attempt.outcome(&title);
        let Attempt { output, tally } = attempt;
        let seconds = started.elapsed().as_secs();
        let (said, verdict) =
            if tally.failed == 0 { ("", "ok") } else { (self.not_yet_shown(&output), "FAILED") };
        print_at_once(&format!("{said}--- {title}: {verdict}: {tally} ({seconds} s)\n"));
        outcome
    }

    fn not_yet_shown<'a>(&self, output: &'a str) -> &'a str {
        if self.watched { "" } else { output }
    }

    fn further_chances(&self, mode: Mode) -> usize {
        if self.guests_may_die && mode == Mode::Microvm { FURTHER_CHANCES } else { 0 }
    }

    fn attempt(&self, run: &Run, only: Option<&[&str]>) -> Attempt {
        self.run_program(run, only).unwrap_or_else(|error| Attempt::impossible(&error))
    }

    fn run_program(&self, run: &Run, only: Option<&[&str]>) -> Result<Attempt> {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=10", &PROGRAM_LIMIT_SECONDS.to_string()]).arg(&run.program);
        command.args(["--test-threads", "2"]);
        match only {
            Some(names) => command.arg("--exact").args(names),
            None => command.args(&self.filter),
        };
        command.env("COFFERDAM_MODE", run.mode.name());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let (output, status) = if self.watched {
            process::watched(&mut command)?
        } else {
            process::followed(&mut command, |_| ())?
        };
        Ok(Attempt::new(output, status.success()))
    }
}

/// In one piece: beside us, another lab prints where we do.
fn print_at_once(text: &str) {
    let mut stdout = io::stdout().lock();
    // Nobody reads any more: what is counted counts all the same.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Whether CRIU works with this kernel: it knows some.
fn has_criu() -> bool {
    let mut check = Command::new("criu");
    check.arg("check").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    check.status().is_ok_and(|status| status.success())
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
    fn what_compares_engines_is_told_by_its_name() {
        assert!(is_compared_once(Path::new("/deps/namespace_docker_beside_runc-0123")));
        assert!(!is_compared_once(Path::new("/deps/docker-0123")));
    }

    #[test]
    fn what_takes_cgroup_v2_is_counted_as_skipped_where_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("scenario_v2-1");
        let script = "#!/bin/sh\necho 'one: test'\necho 'two: test'\n";
        fs::write(&program, script).unwrap();
        let made = Command::new("chmod").arg("755").arg(&program).status().unwrap();
        assert!(made.success());
        assert!(obstacle(&program, folder.path()).is_some());
        assert_eq!(obstacle(&folder.path().join("scenario-1"), folder.path()), None);
        assert_eq!(skipped(&program), Tally { skipped: 2, ..Tally::default() });
        assert_eq!(skipped(Path::new("/nonexistent")), Tally::one(false));
        fs::write(folder.path().join("cgroup.controllers"), "memory").unwrap();
        assert_eq!(obstacle(&program, folder.path()), None);
    }

    #[test]
    fn a_program_that_cannot_run_is_a_failure() {
        let suite = Suite {
            place: "here".to_owned(),
            runs: vec![Run { mode: Mode::Namespace, program: PathBuf::from("/nonexistent-1") }],
            environment: Vec::new(),
            filter: None,
            guests_may_die: true,
            watched: false,
        };
        assert_eq!(suite.run_here().tally, Tally::one(false));
    }

    #[test]
    fn the_parts_of_a_suite_are_the_suite_and_the_slow_ones_come_first() {
        let names = ["/a-1", "/b-1", "/c-1", "/d-1", "/docker-1", "/e-1", "/podman-1"];
        let run = |name| Run { mode: Mode::Microvm, program: PathBuf::from(name) };
        let suite = Suite {
            place: "lab".to_owned(),
            runs: names.map(run).into(),
            environment: Vec::new(),
            filter: None,
            guests_may_die: true,
            watched: false,
        };
        let parts = suite.in_parts(2);
        let name = |run: &Run| run.program.to_string_lossy().into_owned();
        let names = |part: &Suite| part.runs.iter().map(name).collect::<Vec<_>>().join(" ");
        let expected = ["/docker-1", "/podman-1", "/a-1 /b-1", "/c-1 /d-1", "/e-1"];
        assert_eq!(parts.iter().map(names).collect::<Vec<_>>(), expected);
    }

    /// A program that fails but in its second run.
    fn unlucky(folder: &Path, reason: &str) -> PathBuf {
        let program = folder.join("scenario-1");
        let script = format!(
            "#!/bin/sh\necho >> \"$0.runs\"\n\
             if [ $(wc -l < \"$0.runs\") = 2 ]; then\n\
             echo 'test result: ok. 1 passed; 0 failed; 0 ignored'; exit; fi\n\
             printf '\\nfailures:\\n\\n---- a stdout ----\\n{reason}\\n\\nfailures:\\n    a\\n'\n\
             echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored'; exit 101\n"
        );
        fs::write(&program, script).unwrap();
        let made = Command::new("chmod").arg("755").arg(&program).status().unwrap();
        assert!(made.success());
        program
    }

    fn failures(reason: &str, mode: Mode, guests_may_die: bool) -> u64 {
        let folder = tempfile::tempdir().unwrap();
        let program = unlucky(folder.path(), reason);
        let suite = Suite {
            place: "here".to_owned(),
            runs: vec![Run { mode, program }],
            environment: Vec::new(),
            filter: None,
            guests_may_die,
            watched: false,
        };
        let Outcome { tally, failures } = suite.run_here();
        assert_eq!(u64::try_from(failures.len()), Ok(tally.failed));
        tally.failed
    }

    #[test]
    fn a_further_chance_is_for_guests_that_died_on_a_processor_in_software() {
        let died = "The guest shut down or reset";
        assert_eq!(failures(died, Mode::Microvm, true), 0);
        assert_eq!(failures(died, Mode::Microvm, false), 1);
        assert_eq!(failures(died, Mode::Namespace, true), 1);
        assert_eq!(failures("left == right", Mode::Microvm, true), 1);
    }
}
