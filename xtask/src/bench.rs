//! `cargo xtask bench start`: what starting, entering and asking a container costs, beside runc
//! and crun in the same run. `cargo xtask bench network`: what its traffic costs ([`network`]).
//! `cargo xtask bench engines`: what it costs through containerd ([`engines`]).
//!
//! It is measured in the lab with `--icount`, whose clock counts instructions: the figures are
//! virtual milliseconds (a million instructions each, over all processes, the host's kernel and
//! the guest), the same within a few per cent on any machine. They leave out cache and TLB misses
//! and the price of a hardware VM exit.
//!
//! [`measure`] runs in the lab, as a hidden command of this program; [`report`] is what it hands
//! back.

mod asked;
mod bundle;
mod engines;
mod measure;
mod network;
mod report;
mod residence;
mod site;
mod statistics;
mod subject;

use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::de::DeserializeOwned;

use crate::build::{self, Profile};
use crate::lab::Lab;
use crate::rootfs::{self, Image};
use crate::{progress, workspace};

pub(crate) use bundle::config;
pub(crate) use engines::measure::Arguments as MeasureEnginesArguments;
pub(crate) use engines::measure::run as run_measure_engines;
use engines::report::{CrowdReport, EnginesReport};
pub(crate) use measure::Arguments as MeasureArguments;
pub(crate) use measure::run as run_measure;
pub(crate) use network::measure::Arguments as MeasureNetworkArguments;
pub(crate) use network::measure::run as run_measure_network;
use network::report::NetworkReport;
use report::Report;

/// `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// Start, enter and ask a container; the memory that an idle one takes
    Start(CommonArguments),
    /// Bytes and requests to, from and between containers on a bridge
    Network(CommonArguments),
    /// A container, and a second one in its pod, through containerd
    Engines(EnginesArguments),
}

#[derive(Debug, Args)]
struct CommonArguments {
    /// How often each is measured, after a round or two to warm up [default: 15, the others: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Only these
    #[arg(long, value_delimiter = ',', value_parser = ["runc", "crun", "namespace", "microvm"])]
    only: Vec<String>,
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// On this machine and its own clock, not in the lab: for machines whose KVM is fit
    #[arg(long)]
    here: bool,
}

#[derive(Debug, Args)]
struct EnginesArguments {
    #[command(flatten)]
    common: CommonArguments,
    /// Instead: start, use and end so many pods at once. It fails if one of them does, or leaves something
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=100), conflicts_with = "runs")]
    pods: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// A round of everything takes 10 s of real time on a machine of 2026.
const LIMIT: Duration = Duration::from_secs(40 * 60);
const START_RUNS: u32 = 15;
const NETWORK_RUNS: u32 = 5;
const ENGINES_RUNS: u32 = 5;
/// For the pods that come at once. By what is promised of an idle one (docs/specification.md) guest,
/// monitor and shim take 52 MiB; with what starts them, a hundred have room.
const CROWD_MEMORY: &str = "8G";

/// `cargo xtask bench`.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.benchmark {
        Benchmark::Start(arguments) => {
            let command = Measurement::of("measure", "start", START_RUNS, arguments)?;
            command.run::<Report>(arguments)?;
        }
        Benchmark::Network(arguments) => {
            let mut command =
                Measurement::of("measure-network", "network", NETWORK_RUNS, arguments)?;
            let probe = build::compiled(Profile::Release, "cofferdam-probe", Some(build::MUSL))?;
            command.arguments.extend(["--probe".into(), probe.into()]);
            command.run::<NetworkReport>(arguments)?;
        }
        Benchmark::Engines(arguments) => return run_engines(arguments),
    }
    Ok(ExitCode::SUCCESS)
}

fn run_engines(arguments: &EnginesArguments) -> Result<ExitCode> {
    let common = &arguments.common;
    let measurement = |name| Measurement::of("measure-engines", name, ENGINES_RUNS, common);
    let Some(pods) = arguments.pods else {
        measurement("engines")?.run::<EnginesReport>(common)?;
        return Ok(ExitCode::SUCCESS);
    };
    let mut command = measurement("pods")?;
    command.arguments.extend(["--pods".into(), pods.to_string().into()]);
    command.memory = Some(CROWD_MEMORY);
    let report = command.run::<CrowdReport>(common)?;
    Ok(if report.is_kept() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A hidden command of this program's that measures.
struct Measurement {
    arguments: Vec<OsString>,
    folder: PathBuf,
    file: PathBuf,
    /// The lab's, if it is not what a lab has.
    memory: Option<&'static str>,
}

impl Measurement {
    fn of(verb: &str, name: &str, runs: u32, arguments: &CommonArguments) -> Result<Self> {
        let tree = build::ensure(Profile::Release)?;
        let folder = workspace::assembled().join("bench");
        fs::create_dir_all(&folder)
            .with_context(|| format!("Could not create {}", folder.display()))?;
        let file = folder.join(format!("{name}.json"));
        let mut command: Vec<OsString> = vec![
            workspace::own_program()?.into(),
            verb.into(),
            "--programs".into(),
            tree.programs().into(),
            "--rootfs".into(),
            rootfs::ensure(Image::Busybox)?.into(),
            "--runs".into(),
            arguments.runs.unwrap_or(runs).to_string().into(),
            "--report".into(),
            file.clone().into(),
        ];
        if !arguments.only.is_empty() {
            command.extend(["--only".into(), arguments.only.join(",").into()]);
        }
        Ok(Self { arguments: command, folder, file, memory: None })
    }

    /// Measures, and prints what came of it.
    fn run<R: Display + DeserializeOwned>(self, arguments: &CommonArguments) -> Result<R> {
        if self.file.exists() {
            fs::remove_file(&self.file)?;
        }
        let step = progress::step("Measuring");
        let status = if arguments.here { self.here()? } else { self.in_lab()? };
        step.done();
        if status != 0 {
            bail!("The measurement ended with status {status}");
        }
        let text = fs::read_to_string(&self.file)
            .with_context(|| format!("Could not read {}", self.file.display()))?;
        let report: R = serde_json::from_str(&text).context("The measurement's report")?;
        match arguments.format {
            Format::Json => println!("{text}"),
            Format::Table => {
                println!("{report}");
                println!("All samples: {}", self.file.display());
            }
        }
        Ok(report)
    }

    fn here(&self) -> Result<u8> {
        let (program, arguments) = self.arguments.split_first().context("No program")?;
        let status = Command::new(program).args(arguments).status()?;
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }

    fn in_lab(&self) -> Result<u8> {
        let (command, out) = (self.arguments.clone(), Some(self.folder.clone()));
        let mut lab = Lab { icount: true, limit: LIMIT, out, ..Lab::new(command) };
        if let Some(memory) = self.memory {
            memory.clone_into(&mut lab.memory);
        }
        lab.run()
    }
}
