//! The measuring itself. In the lab it is alone on the machine, as root, on a clock of its own.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::Value;

use super::bundle;
use super::report::{Idle, Operation, Report, SubjectReport};
use super::residence;
use super::subject::Subject;
use crate::process;

/// `cargo xtask measure`: what `bench` runs in the lab.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder of cofferdam's programs, with `guest` beside it
    #[arg(long)]
    programs: PathBuf,
    /// The busybox root file system
    #[arg(long)]
    rootfs: PathBuf,
    /// Samples of each
    #[arg(long)]
    runs: u32,
    /// Only these subjects
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the report goes
    #[arg(long)]
    report: PathBuf,
}

/// Rounds that are not counted: they fill caches, and the runtime's cache of the KVM probe.
const WARM_UP: u32 = 2;

/// `cargo xtask measure`.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let in_lab = env::var_os("COFFERDAM_LAB").is_some();
    let folder = tempfile::Builder::new().prefix("cofferdam-bench-").tempdir()?;
    let copy = folder.path().join("cofferdam");
    let tree = arguments.programs.parent().context("--programs has no parent folder")?;
    process::run(Command::new("cp").arg("-a").arg(tree).arg(&copy))?;
    let subjects: Vec<Subject> = Subject::all(&copy.join("bin"))
        .into_iter()
        .filter(|subject| {
            arguments.only.is_empty() || arguments.only.iter().any(|name| name == subject.name)
        })
        .collect();
    if in_lab {
        let programs: Vec<PathBuf> =
            subjects.iter().map(|subject| subject.program.clone()).collect();
        residence::bind_into_memory(&programs, &folder.path().join("memory"))?;
    }
    let bundles = Bundles { ends: folder.path().join("ends"), stays: folder.path().join("stays") };
    bundle::write(&bundles.ends, &arguments.rootfs, &["true"])?;
    bundle::write(&bundles.stays, &arguments.rootfs, &["sleep", "100000"])?;

    let mut report = Report { virtual_time: in_lab, subjects: Vec::new() };
    for subject in &subjects {
        eprintln!("measuring {}", subject.name);
        report.subjects.push(measure(subject, &bundles, arguments.runs)?);
    }
    let text = serde_json::to_vec_pretty(&report)?;
    fs::write(&arguments.report, text)
        .with_context(|| format!("Could not write {}", arguments.report.display()))?;
    Ok(ExitCode::SUCCESS)
}

struct Bundles {
    ends: PathBuf,
    stays: PathBuf,
}

fn measure(subject: &Subject, bundles: &Bundles, runs: u32) -> Result<SubjectReport> {
    let mut run = Vec::new();
    for round in 0..WARM_UP + runs {
        let id = format!("run-{round}");
        run.push(timed(|| subject.verb(&["run", "--bundle", text(&bundles.ends)?, &id]))?);
    }
    let (mut start, mut delete) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + runs {
        let id = format!("start-{round}");
        start.push(timed(|| {
            subject.verb(&["create", "--bundle", text(&bundles.stays)?, &id])?;
            subject.verb(&["start", &id])
        })?);
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
    let idle = (subject.name == "microvm").then(|| idle(subject, bundles)).transpose()?;

    let operations = [
        ("run true", run),
        ("create + start", start),
        ("exec true", exec),
        ("state", state),
        ("delete --force", delete),
    ];
    let counted = |samples: Vec<u64>| samples.into_iter().skip(WARM_UP as usize).collect();
    let operations =
        operations.into_iter().map(|(name, samples)| Operation::new(name, counted(samples)));
    Ok(SubjectReport {
        name: subject.name.to_owned(),
        version: subject.version(),
        operations: operations.collect(),
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
    let figure = |name: &str| {
        statistics[name].as_u64().with_context(|| format!("The monitor's statistics: {statistics}"))
    };
    Ok(Idle { monitor_kib: figure("monitor_kib")?, guest_kib: figure("guest_kib")? })
}

/// Asks a monitor for its figures: one frame to its control socket, one back. A frame is a
/// little-endian length and JSON (`protocol::frame`, `protocol::control`).
fn statistics(id: &str) -> Result<Value> {
    let path = format!("/run/cofferdam/{id}/control.sock");
    let mut stream =
        UnixStream::connect(&path).with_context(|| format!("Could not connect to {path}"))?;
    let request = br#""statistics""#;
    let mut frame = u32::try_from(request.len())?.to_le_bytes().to_vec();
    frame.extend(request);
    stream.write_all(&frame)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = Vec::new();
    stream.take(u64::from(u32::from_le_bytes(length))).read_to_end(&mut answer)?;
    let answer: Value = serde_json::from_slice(&answer)?;
    Ok(answer["statistics"].clone())
}
