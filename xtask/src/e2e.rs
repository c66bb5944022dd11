//! The end-to-end scenarios (`tests/e2e`), each where it can run.
//!
//! | tier | where |
//! |---|---|
//! | namespaces, here | this machine, with the cgroup version that it has |
//! | namespaces, lab | the lab: cgroup v2, Landlock |
//! | microVM | this machine where its KVM is fit, else the lab |
//!
//! Programs are compiled here and run in the lab by path. One start of a lab serves some programs
//! of a mode, and two labs run side by side; their roots are in RAM, so their state is fresh.

mod attempt;
mod outcome;
mod suite;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::build::{self, MUSL, Profile};
use crate::lab::Lab;
use crate::rootfs::{self, Image};
use crate::tally::Tally;
use crate::{kvm, lab, process, workspace};
use outcome::Outcome;
use suite::{Mode, Progress, Run, Suite};

pub(crate) use suite::Arguments as SuiteArguments;
pub(crate) use suite::run as run_suite;

/// `cargo xtask e2e`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Which kind of sandbox
    #[arg(long, value_enum, default_value_t = Modes::All)]
    mode: Modes,
    /// Only on this machine, or only in the lab
    #[arg(long, value_enum)]
    place: Option<Place>,
    /// Show what the scenarios print while they run, not only what those that fail have printed
    #[arg(long)]
    watch: bool,
    /// Only the files of scenarios, or else the scenarios, with this in their name
    filter: Option<String>,
}

/// The kinds of sandbox to test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Modes {
    /// Namespaces only.
    Namespace,
    /// MicroVMs only.
    Microvm,
    /// Both.
    All,
}

/// Where a tier runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Place {
    /// This machine.
    Here,
    /// The lab.
    Lab,
}

/// What people read of where it runs.
const HERE: &str = "here";
const LAB: &str = "lab";

/// How long a lab may take for its programs: those with the engines were seen to take 20 minutes.
const LAB_LIMIT: Duration = Duration::from_secs(40 * 60);
/// One start of a lab is 15 s; the fewer programs it serves, the better two of them share the work.
const PROGRAMS_IN_A_LAB: usize = 6;
/// How often a lab may break down before that counts as a failure.
const MAX_LABS: usize = 3;
/// In the lab, the scenarios of several guests side by side.
const LAB_MEMORY: &str = "6G";

/// `cargo xtask e2e`.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let tally = counted(tiers(arguments)?);
    println!("{tally}");
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every tier there is.
pub(crate) fn all() -> Result<Tally> {
    let everything = Arguments { mode: Modes::All, place: None, watch: false, filter: None };
    tiers(&everything).map(counted)
}

/// Says once more what failed, where whoever looks at the end of a log finds it.
fn counted(outcome: Outcome) -> Tally {
    if !outcome.failures.is_empty() {
        eprintln!("=== what failed");
        outcome.failures.iter().for_each(|failure| eprintln!("{failure}"));
    }
    outcome.tally
}

fn tiers(arguments: &Arguments) -> Result<Outcome> {
    if !nix::unistd::geteuid().is_root() {
        bail!("The end-to-end scenarios make containers: run them as root");
    }
    let prepared = prepare()?;
    let tiers = planned(arguments, prepared.kvm_obstacle.as_deref());
    if let Some(reason) = prepared.kvm_obstacle.as_deref().filter(|_| tiers.microvms_in_lab) {
        eprintln!("MicroVMs run in the lab, since this machine's KVM cannot: {reason}");
    }
    let here = prepared.suite(&tiers.here, HERE, arguments);
    let mut for_labs = Vec::new();
    for mode in tiers.in_labs() {
        for_labs.extend(prepared.suite(&[mode], LAB, arguments).in_parts(PROGRAMS_IN_A_LAB));
    }
    if !for_labs.is_empty() {
        // Once, before two of them want it.
        lab::prepare()?;
    }
    let for_labs = Mutex::new(for_labs.into_iter());
    // A lab has one CPU: there are two, side by side, the second one when this machine is done.
    thread::scope(|scope| {
        let first = scope.spawn(|| in_labs(&for_labs));
        let mut outcome = here.run_here();
        outcome += in_labs(&for_labs)?;
        outcome += first.join().map_err(|_| anyhow!("A lab's thread panicked"))??;
        Ok(outcome)
    })
}

/// Runs suites, each in a lab of its own, until none is left.
fn in_labs(suites: &Mutex<impl Iterator<Item = Suite>>) -> Result<Outcome> {
    let next = || suites.lock().unwrap_or_else(PoisonError::into_inner).next();
    let mut sum = Outcome::default();
    while let Some(suite) = next() {
        sum += in_the_lab(&suite)?;
    }
    Ok(sum)
}

/// What runs where.
#[derive(Debug, PartialEq, Eq)]
struct Tiers {
    here: Vec<Mode>,
    namespaces_in_lab: bool,
    microvms_in_lab: bool,
}

impl Tiers {
    /// The modes that labs are needed for.
    fn in_labs(&self) -> impl Iterator<Item = Mode> {
        let modes =
            [(self.namespaces_in_lab, Mode::Namespace), (self.microvms_in_lab, Mode::Microvm)];
        modes.into_iter().filter_map(|(wanted, mode)| wanted.then_some(mode))
    }
}

fn planned(arguments: &Arguments, kvm_obstacle: Option<&str>) -> Tiers {
    let (namespaces, microvms) =
        (arguments.mode != Modes::Microvm, arguments.mode != Modes::Namespace);
    let place = |wanted| arguments.place.is_none_or(|place| place == wanted);
    let mut here = Vec::new();
    if place(Place::Here) {
        here.extend(namespaces.then_some(Mode::Namespace));
        here.extend((microvms && kvm_obstacle.is_none()).then_some(Mode::Microvm));
    }
    // Asked for by name, the lab can always run them.
    let by_name = arguments.place == Some(Place::Lab);
    Tiers {
        here,
        namespaces_in_lab: namespaces && place(Place::Lab),
        microvms_in_lab: microvms && place(Place::Lab) && (by_name || kvm_obstacle.is_some()),
    }
}

/// What the scenarios need.
struct Prepared {
    environment: Vec<(String, PathBuf)>,
    programs: Vec<PathBuf>,
    kvm_obstacle: Option<String>,
}

fn prepare() -> Result<Prepared> {
    let tree = build::ensure(Profile::Release)?;
    let environment = vec![
        ("COFFERDAM_BIN".to_owned(), tree.programs()),
        ("COFFERDAM_BUSYBOX".to_owned(), rootfs::ensure(Image::Busybox)?),
        ("COFFERDAM_DEBIAN".to_owned(), rootfs::ensure(Image::Debian)?),
        ("COFFERDAM_MACHINE".to_owned(), rootfs::ensure(Image::Machine)?),
        ("COFFERDAM_STACK".to_owned(), rootfs::ensure(Image::Stack)?),
        (
            "COFFERDAM_PROBE_BIN".to_owned(),
            build::compiled(Profile::Debug, "cofferdam-probe", Some(MUSL))?,
        ),
    ];
    let kvm_obstacle = kvm::obstacle(&tree)?;
    Ok(Prepared { environment, programs: scenario_programs()?, kvm_obstacle })
}

impl Prepared {
    fn suite(&self, modes: &[Mode], place: &str, arguments: &Arguments) -> Suite {
        let mut programs: Vec<&PathBuf> = self.programs.iter().collect();
        let mut filter = arguments.filter.clone();
        if let Some(wanted) = arguments.filter.as_deref() {
            let named = |program: &&PathBuf| suite::name_of(program).contains(wanted);
            if programs.iter().any(named) {
                programs.retain(named);
                filter = None;
            }
        }
        let again = |mode, program: &Path| {
            let here_too = arguments.place.is_none() && mode == Mode::Namespace;
            place == LAB && here_too && suite::is_compared_once(program)
        };
        let mut runs = Vec::new();
        for &mode in modes {
            let wanted = |program: &&&PathBuf| mode.has(program) && !again(mode, program);
            for program in programs.iter().filter(wanted) {
                runs.push(Run { mode, program: (*program).clone() });
            }
        }
        let environment = self.environment.clone();
        let guests_may_die = place == LAB;
        let watched = arguments.watch;
        Suite { place: place.to_owned(), runs, environment, filter, guests_may_die, watched }
    }
}

/// A line of cargo's JSON messages, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<MessageTarget>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct MessageTarget {
    kind: Vec<String>,
}

/// Compiles the scenarios and says where their programs are.
fn scenario_programs() -> Result<Vec<PathBuf>> {
    let mut command = workspace::cargo("test");
    command.args(["--package", "cofferdam-e2e", "--tests", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    command.stderr(std::process::Stdio::inherit());
    let messages = process::output(&mut command)?;
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).context("Cargo's messages")?;
        let is_test = message.target.is_some_and(|target| target.kind == ["test"]);
        if message.reason == "compiler-artifact" && is_test {
            programs.extend(message.executable);
        }
    }
    programs.sort();
    Ok(programs)
}

/// Runs a suite in the lab, and what is left of it in another when that one breaks down, as a
/// machine in software does now and then. What does not come back has failed.
fn in_the_lab(suite: &Suite) -> Result<Outcome> {
    let mut sum = Progress::default();
    for _ in 0..MAX_LABS {
        let (progress, status) = in_one_lab(&suite.from(sum.done))?;
        sum.done += progress.done;
        sum.outcome += progress.outcome;
        if sum.done == suite.runs.len() {
            return Ok(sum.outcome);
        }
        if status != lab::NOT_UP {
            break;
        }
        eprintln!("--- the lab broke down: what is left of it goes to another");
    }
    let left = suite.from(sum.done);
    let names: Vec<String> = left.runs.iter().map(|run| suite::name_of(&run.program)).collect();
    eprintln!("FAILED: scenarios in the lab did not come to their end: {}", names.join(" "));
    sum.outcome += Outcome::counted(Tally::one(false));
    Ok(sum.outcome)
}

fn in_one_lab(suite: &Suite) -> Result<(Progress, u8)> {
    let folder = tempfile::Builder::new().prefix("e2e-").tempdir_in(workspace::cache())?;
    let [plan, report, heartbeat] =
        ["plan.json", "report.json", "heartbeat"].map(|name| folder.path().join(name));
    std::fs::write(&plan, serde_json::to_vec(suite)?)?;
    let paths = [&plan, &report, &heartbeat].map(|path| path.clone().into_os_string());
    let command: [OsString; 2] = [workspace::own_program()?.into(), "suite".into()];
    // Without counting instructions: several times as fast, and the deadlines of what is tested are
    // long enough for a machine in software. One CPU: with two, its kernel was once seen to wait for
    // a lock on both, for ever, after QEMU had delivered an interrupt where it may not.
    let lab = Lab {
        cpus: 1,
        limit: LAB_LIMIT,
        memory: LAB_MEMORY.to_owned(),
        out: Some(folder.path().to_owned()),
        heartbeat: Some(heartbeat),
        ..Lab::new(command.into_iter().chain(paths))
    };
    let status = lab.run()?;
    Ok((read_report(&report), status))
}

/// Nothing is done where there is none.
fn read_report(report: &Path) -> Progress {
    let text = std::fs::read_to_string(report).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(mode: Modes, place: Option<Place>) -> Arguments {
        Arguments { mode, place, watch: false, filter: None }
    }

    #[test]
    fn every_mode_runs_wherever_it_can() {
        let all = asked(Modes::All, None);
        let tiers =
            Tiers { here: vec![Mode::Namespace], namespaces_in_lab: true, microvms_in_lab: true };
        assert_eq!(planned(&all, Some("unfit")), tiers);
        let fit =
            Tiers { here: vec![Mode::Namespace, Mode::Microvm], microvms_in_lab: false, ..tiers };
        assert_eq!(planned(&all, None), fit);
    }

    #[test]
    fn a_place_or_a_mode_that_is_asked_for_is_the_only_one() {
        let lab = planned(&asked(Modes::Microvm, Some(Place::Lab)), None);
        let only_microvms =
            Tiers { here: Vec::new(), namespaces_in_lab: false, microvms_in_lab: true };
        assert_eq!(lab, only_microvms);
        let here = planned(&asked(Modes::All, Some(Place::Here)), Some("unfit"));
        let only_here =
            Tiers { here: vec![Mode::Namespace], namespaces_in_lab: false, microvms_in_lab: false };
        assert_eq!(here, only_here);
    }

    #[test]
    fn a_lab_that_left_no_report_has_done_nothing() {
        assert_eq!(read_report(Path::new("/nonexistent")), Progress::default());
    }
}
