//! The measuring itself: one containerd, and each runtime through it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use super::containerd::{Containerd, program};
use super::crowd;
use super::handler::{Handler, RUNC_SHIM};
use super::pod::Pod;
use super::report::{CrowdReport, Divided, EnginesReport, Handled};
use crate::bench::asked::Asked;
use crate::bench::report::Operation;
use crate::bench::residence::MemoryRoot;
use crate::bench::statistics::Statistics;
use crate::bench::subject::Subject;
use crate::process;

/// `cargo xtask measure-engines`: what `bench engines` runs in the lab.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    asked: Asked,
    /// So many pods at once, instead of the samples
    #[arg(long)]
    pods: Option<u8>,
}

/// Rounds that are not counted: they fill caches, and the runtime's cache of the KVM probe.
const WARM_UP: u32 = 2;
/// Without a wish: those that are compared, and whose pods come in crowds.
const COMPARED: [&str; 3] = ["runc", "namespace", "microvm"];
const CROWDED: [&str; 1] = ["microvm"];

/// `cargo xtask measure-engines`.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let virtual_time = env::var_os("COFFERDAM_LAB").is_some();
    let file = arguments.asked.report()?;
    // In memory: the names of sockets are short, and nothing waits for a disk.
    let folder = tempfile::Builder::new().prefix("cofferdam-bench-").tempdir_in("/run")?;
    let root = tempfile::Builder::new().prefix("cofferdam-bench-").tempdir()?;
    let (programs, rootfs) = if virtual_time {
        prepare_in_memory(arguments, root.path())?
    } else {
        prepare(arguments, root.path())?
    };
    let subjects = subjects(&programs, &arguments.asked.only, arguments.pods.is_some());
    let handlers = subjects.into_iter().map(|subject| Handler::of(subject, folder.path()));
    let handlers = handlers.collect::<Result<Vec<_>>>()?;
    let containerd = Containerd::start(folder.path(), &rootfs, &programs)?;
    if let Some(pods) = arguments.pods {
        let crowds = each(&handlers, |handler| crowd::gather(&containerd, handler, pods))?;
        serde_json::to_writer_pretty(file, &CrowdReport { virtual_time, crowds })?;
    } else {
        let subjects =
            each(&handlers, |handler| measure(&containerd, handler, arguments.asked.runs))?;
        serde_json::to_writer_pretty(file, &EnginesReport { virtual_time, subjects })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn each<T>(handlers: &[Handler], measure: impl Fn(&Handler) -> Result<T>) -> Result<Vec<T>> {
    let measured = handlers.iter().map(|handler| {
        eprintln!("measuring {}", handler.name());
        measure(handler)
    });
    measured.collect()
}

/// Where the programs and the root file system of containers are, on this machine.
fn prepare(arguments: &Arguments, folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let rootfs = folder.join("rootfs");
    process::run(Command::new("cp").arg("-a").arg(&arguments.asked.rootfs).arg(&rootfs))?;
    Ok((arguments.asked.programs.clone(), rootfs))
}

/// The same in a root of their own in RAM, which this process enters.
fn prepare_in_memory(arguments: &Arguments, folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let root = MemoryRoot::over(folder)?;
    let tree = arguments.asked.programs.parent().context("--programs has no parent folder")?;
    let copy = |from: &Path, to: &str| {
        process::run(Command::new("cp").arg("-a").arg(from).arg(root.at(Path::new(to))))
    };
    copy(tree, "/cofferdam")?;
    copy(&arguments.asked.rootfs, "/rootfs")?;
    let mut programs: Vec<_> =
        Subject::all(&arguments.asked.programs).map(|subject| subject.program).into();
    for name in ["containerd", "ctr", RUNC_SHIM, "ip", "tc"] {
        programs.push(program(name)?);
    }
    root.take_in(&programs)?;
    fs::read(env::current_exe()?)?;
    root.enter()?;
    Ok(("/cofferdam/bin".into(), "/rootfs".into()))
}

/// Those that are asked for.
fn subjects(programs: &Path, only: &[String], in_crowds: bool) -> Vec<Subject> {
    let usual = if in_crowds { &CROWDED[..] } else { &COMPARED };
    let wanted = |subject: &Subject| match only {
        [] => usual.contains(&subject.name),
        names => names.iter().any(|name| name == subject.name),
    };
    Subject::all(programs).into_iter().filter(wanted).collect()
}

fn measure(containerd: &Containerd, handler: &Handler, runs: u32) -> Result<Handled> {
    let (mut alone, mut joined, mut boot) = (Vec::new(), Vec::new(), Vec::new());
    let ends = ["true"];
    for round in 0..WARM_UP + runs {
        let words =
            containerd.run_words(handler, &["--rm".to_owned()], &format!("alone-{round}"), &ends);
        alone.push(containerd.measured(&words)?);
        let pod = Pod::new(containerd, handler, &format!("pod-{round}"), None);
        pod.start()?;
        if handler.is_vm() {
            let state = Handler::state(containerd.namespace(), pod.id());
            boot.push(Statistics::of(&state)?.figure("boot_us")?);
        }
        joined.push(containerd.measured(&pod.member_words(&ends)?)?);
        pod.stop()?;
    }
    let warm = WARM_UP as usize;
    Ok(Handled {
        name: handler.name().to_owned(),
        version: handler.version(),
        alone: Divided::new("ctr run true", &alone[warm..]),
        joined: Divided::new("second in a pod", &joined[warm..]),
        boot: boot.get(warm..).map(|boot| Operation::new("kernel to agent", boot.to_vec())),
    })
}
