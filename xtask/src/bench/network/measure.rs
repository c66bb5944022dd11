//! The measuring itself: two containers of each runtime, and what moves to, from and between them.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Args;

use super::client::{Browsers, Bulk, PORT};
use super::report::{Flow, NetworkReport, Traffic};
use crate::bench::asked::Asked;
use crate::bench::bundle;
use crate::bench::residence::MemoryRoot;
use crate::bench::site::Site;
use crate::bench::subject::Subject;
use crate::process;

/// `cargo xtask measure-network`: what `bench network` runs in the lab.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    asked: Asked,
    /// The probe, which is the containers' program
    #[arg(long)]
    probe: PathBuf,
}

/// What one sample of bulk is: long enough that neither its beginning nor its end shows.
const MIB: u64 = 16;
const MIB_BYTES: u64 = 1 << 20;
/// Connections that ask at the same time.
const BROWSERS: usize = 16;
/// Rounds of requests in one sample.
const ROUNDS: u64 = 50;
/// KVM's own counters that tell what a byte costs.
const COUNTERS: [&str; 5] = ["exits", "mmio_exits", "halt_exits", "irq_injections", "signal_exits"];
const COUNTER_FOLDER: &str = "/sys/kernel/debug/kvm";

/// `cargo xtask measure-network`.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let in_lab = env::var_os("COFFERDAM_LAB").is_some();
    let folder = tempfile::Builder::new().prefix("cofferdam-bench-").tempdir()?;
    let file = arguments.asked.report()?;
    let (subjects, bundles) = if in_lab {
        prepare_in_memory(arguments, folder.path())?
    } else {
        prepare(arguments, folder.path())?
    };
    let _site = Site::build(2)?;
    let mut report = NetworkReport { virtual_time: in_lab, subjects: Vec::new() };
    for subject in &subjects {
        eprintln!("measuring {}", subject.name);
        report.subjects.push(measure(subject, &bundles, arguments.asked.runs)?);
    }
    serde_json::to_writer_pretty(file, &report)?;
    Ok(ExitCode::SUCCESS)
}

/// One for each container: it names its network namespace.
type Bundles = [PathBuf; 2];

fn prepare(arguments: &Arguments, folder: &Path) -> Result<(Vec<Subject>, Bundles)> {
    write_bundles(arguments, folder)?;
    Ok((subjects(&arguments.asked.programs, &arguments.asked.only), bundles_below(folder)))
}

/// The same in a root of their own in RAM, which this process enters.
fn prepare_in_memory(arguments: &Arguments, folder: &Path) -> Result<(Vec<Subject>, Bundles)> {
    let root = MemoryRoot::over(folder)?;
    let tree = arguments.asked.programs.parent().context("--programs has no parent folder")?;
    process::run(Command::new("cp").arg("-a").arg(tree).arg(root.at(Path::new("/cofferdam"))))?;
    let mut programs: Vec<_> =
        Subject::all(&arguments.asked.programs).map(|subject| subject.program).into();
    programs.extend(process::find("ip"));
    root.take_in(&programs)?;
    fs::read(env::current_exe()?)?;
    write_bundles(arguments, &root.at(Path::new("/bench")))?;
    root.enter()?;
    let subjects = subjects(Path::new("/cofferdam/bin"), &arguments.asked.only);
    Ok((subjects, bundles_below(Path::new("/bench"))))
}

/// Those that are asked for; without a wish the two that are compared.
fn subjects(programs: &Path, only: &[String]) -> Vec<Subject> {
    let wanted = |subject: &Subject| match only {
        [] => ["runc", "microvm"].contains(&subject.name),
        names => names.iter().any(|name| name == subject.name),
    };
    Subject::all(programs).into_iter().filter(wanted).collect()
}

fn bundles_below(folder: &Path) -> Bundles {
    [folder.join("first"), folder.join("second")]
}

fn write_bundles(arguments: &Arguments, folder: &Path) -> Result<()> {
    for (plot, bundle) in (1..).zip(bundles_below(folder)) {
        let address = format!("0.0.0.0:{PORT}");
        bundle::write_with(
            &bundle,
            &arguments.asked.rootfs,
            &["/probe", "--traffic", &address],
            |all| {
                bundle::join_network(all, &Site::path(plot));
            },
        )?;
        fs::copy(&arguments.probe, bundle.join("rootfs/probe"))?;
    }
    Ok(())
}

fn measure(subject: &Subject, bundles: &Bundles, runs: u32) -> Result<Traffic> {
    let ids = ["net-1", "net-2"];
    for (id, bundle) in ids.iter().zip(bundles) {
        let bundle = bundle.to_str().context("A path that is not text")?;
        subject.verb(&["create", "--bundle", bundle, id])?;
        subject.verb(&["start", id])?;
    }
    let flows = flows(runs);
    for id in ids {
        subject.verb(&["delete", "--force", id])?;
    }
    let (name, version) = (subject.name.to_owned(), subject.version());
    Ok(Traffic { name, version, flows: flows? })
}

fn flows(runs: u32) -> Result<Vec<Flow>> {
    let (first, second) = (Site::address(1), Site::address(2));
    let mut bulk = Bulk::connect(first)?;
    // Whoever is asked to pass something on finds somebody there.
    drop(Bulk::connect(second)?);
    let bytes = MIB * MIB_BYTES;
    let into = sampled("host to container", ("MiB", MIB), runs, || bulk.send(bytes))?;
    let out = sampled("container to host", ("MiB", MIB), runs, || bulk.receive(bytes))?;
    let mut between = || bulk.pass_on(bytes, second);
    let between = sampled("container to container", ("MiB", MIB), runs, &mut between)?;
    let mut browsers = Browsers::connect(first, BROWSERS)?;
    let rounds = |browsers: &mut Browsers, count| (0..count).try_for_each(|_| browsers.ask());
    let requests = ("request", ROUNDS * BROWSERS as u64);
    let many = sampled("HTTP, 16 at once", requests, runs, || rounds(&mut browsers, ROUNDS))?;
    let mut browser = Browsers::connect(first, 1)?;
    let requests = ("request", 4 * ROUNDS);
    let one = sampled("HTTP, one by one", requests, runs, || rounds(&mut browser, 4 * ROUNDS))?;
    Ok(vec![into, out, between, many, one])
}

/// Does something some times, after one round to warm up.
fn sampled(
    name: &str,
    (unit, units): (&str, u64),
    runs: u32,
    mut action: impl FnMut() -> Result<()>,
) -> Result<Flow> {
    action().context(name.to_owned())?;
    let before = counters();
    let mut samples = Vec::new();
    for _ in 0..runs {
        let started = Instant::now();
        action().context(name.to_owned())?;
        samples.push(u64::try_from(started.elapsed().as_nanos())?);
    }
    let mut flow = Flow::new(name, unit, units, samples);
    let all = (units * u64::from(runs)) as f64;
    flow.kvm = counters()
        .into_iter()
        .filter_map(|(name, after)| {
            let since = after.saturating_sub(*before.get(&name)?);
            (since > 0).then(|| (name, since as f64 / all))
        })
        .collect();
    Ok(flow)
}

/// What all machines of this host did so far; nothing where the kernel does not tell.
fn counters() -> BTreeMap<String, u64> {
    let read = |name: &&str| {
        let text = fs::read_to_string(Path::new(COUNTER_FOLDER).join(name)).ok()?;
        Some(((*name).to_owned(), text.trim().parse().ok()?))
    };
    COUNTERS.iter().filter_map(read).collect()
}
