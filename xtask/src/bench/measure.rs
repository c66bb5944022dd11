//! The measuring itself. In the lab it is alone on the machine, as root, on a clock of its own.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;

use super::asked::Asked;
use super::bundle;
use super::report::{Idle, Operation, Report, SubjectReport};
use super::residence::MemoryRoot;
use super::statistics::Statistics;
use super::subject::Subject;
use crate::process;

/// `cargo xtask measure`: what `bench` runs in the lab.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    asked: Asked,
}

/// Rounds that are not counted: they fill caches, and the runtime's cache of the KVM probe.
const WARM_UP: u32 = 2;

/// `cargo xtask measure`.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let in_lab = env::var_os("COFFERDAM_LAB").is_some();
    let folder = tempfile::Builder::new().prefix("cofferdam-bench-").tempdir()?;
    let file = arguments.asked.report()?;
    let (subjects, bundles) = if in_lab {
        prepare_in_memory(arguments, folder.path())?
    } else {
        prepare(arguments, folder.path())?
    };

    let mut report = Report { virtual_time: in_lab, subjects: Vec::new() };
    for subject in &subjects {
        eprintln!("measuring {}", subject.name);
        report.subjects.push(measure(subject, &bundles, arguments.asked.runs)?);
    }
    serde_json::to_writer_pretty(file, &report)?;
    Ok(ExitCode::SUCCESS)
}

/// The subjects as they are on this machine, and their bundles.
fn prepare(arguments: &Arguments, folder: &Path) -> Result<(Vec<Subject>, Bundles)> {
    let subjects = subjects(&arguments.asked.programs, &arguments.asked.only);
    let bundles = Bundles::write(folder, &arguments.asked.rootfs)?;
    Ok((subjects, bundles))
}

/// The same in a root of their own in RAM, which this process enters.
fn prepare_in_memory(arguments: &Arguments, folder: &Path) -> Result<(Vec<Subject>, Bundles)> {
    let root = MemoryRoot::over(folder)?;
    let tree = arguments.asked.programs.parent().context("--programs has no parent folder")?;
    process::run(Command::new("cp").arg("-a").arg(tree).arg(root.at(Path::new("/cofferdam"))))?;
    let subjects = subjects(Path::new("/cofferdam/bin"), &arguments.asked.only);
    // Everything is linked where it is now, and our own program is read to its end: what of it is
    // not in memory yet would be fetched from the host in the middle of a measurement.
    let here = Subject::all(&arguments.asked.programs).map(|subject| subject.program);
    root.take_in(&here)?;
    fs::read(env::current_exe()?)?;
    Bundles::write(&root.at(Path::new("/bench")), &arguments.asked.rootfs)?;
    root.enter()?;
    Ok((subjects, Bundles::below(Path::new("/bench"))))
}

fn subjects(programs: &Path, only: &[String]) -> Vec<Subject> {
    let wanted = |subject: &Subject| only.is_empty() || only.iter().any(|n| n == subject.name);
    Subject::all(programs).into_iter().filter(wanted).collect()
}

/// The bundles that are measured.
struct Bundles {
    /// Its process ends at once.
    ends: PathBuf,
    /// Its process stays.
    stays: PathBuf,
}

impl Bundles {
    fn below(folder: &Path) -> Self {
        Self { ends: folder.join("ends"), stays: folder.join("stays") }
    }

    fn write(folder: &Path, rootfs: &Path) -> Result<Self> {
        let bundles = Self::below(folder);
        bundle::write(&bundles.ends, rootfs, &["true"])?;
        bundle::write(&bundles.stays, rootfs, &["sleep", "100000"])?;
        Ok(bundles)
    }
}

fn measure(subject: &Subject, bundles: &Bundles, runs: u32) -> Result<SubjectReport> {
    let mut run = Vec::new();
    for round in 0..WARM_UP + runs {
        let id = format!("run-{round}");
        run.push(timed(|| subject.verb(&["run", "--bundle", text(&bundles.ends)?, &id]))?);
    }
    let is_vm = subject.name == "microvm";
    let (mut start, mut boot, mut delete) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..WARM_UP + runs {
        let id = format!("start-{round}");
        start.push(timed(|| {
            subject.verb(&["create", "--bundle", text(&bundles.stays)?, &id])?;
            subject.verb(&["start", &id])
        })?);
        if is_vm {
            boot.push(statistics(&id)?.figure("boot_us")?);
        }
        delete.push(timed(|| subject.verb(&["delete", "--force", &id]))?);
    }
    let id = "exec";
    subject.verb(&["create", "--bundle", text(&bundles.stays)?, id])?;
    subject.verb(&["start", id])?;
    let (mut exec, mut state) = (Vec::new(), Vec::new());
    for _ in 0..WARM_UP + runs {
        exec.push(timed(|| subject.verb(&["exec", id, "true"]))?);
        state.push(timed(|| subject.verb(&["state", id]))?);
    }
    subject.verb(&["delete", "--force", id])?;
    let idle = is_vm.then(|| idle(subject, bundles)).transpose()?;

    let operations = [
        ("run true", run),
        ("create + start", start),
        ("exec true", exec),
        ("state", state),
        ("delete --force", delete),
    ];
    let counted =
        |samples: Vec<u64>| samples.into_iter().skip(WARM_UP as usize).collect::<Vec<_>>();
    let operations =
        operations.into_iter().map(|(name, samples)| Operation::new(name, counted(samples)));
    let boot = is_vm.then(|| Operation::new("kernel to agent", counted(boot)));
    Ok(SubjectReport {
        name: subject.name.to_owned(),
        version: subject.version(),
        operations: operations.collect(),
        boot,
        idle,
    })
}

/// The microseconds that something takes.
fn timed(action: impl FnOnce() -> Result<()>) -> Result<u64> {
    let started = Instant::now();
    action()?;
    Ok(u64::try_from(started.elapsed().as_micros())?)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("A path that is not text")
}

/// What an idle container takes, in a sandbox that has done nothing else.
fn idle(subject: &Subject, bundles: &Bundles) -> Result<Idle> {
    let id = "idle";
    subject.verb(&["create", "--bundle", text(&bundles.stays)?, id])?;
    subject.verb(&["start", id])?;
    // What its start left to do in the background is done by then.
    thread::sleep(Duration::from_secs(2));
    let statistics = statistics(id);
    subject.verb(&["delete", "--force", id])?;
    let statistics = statistics?;
    Ok(Idle {
        monitor_kib: statistics.figure("monitor_kib")?,
        guest_kib: statistics.figure("guest_kib")?,
    })
}

/// Of the monitor of a container with the state root that there is without a flag.
fn statistics(id: &str) -> Result<Statistics> {
    Statistics::of(&Path::new("/run/cofferdam").join(id))
}
