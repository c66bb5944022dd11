//! `cargo xtask bench start`: what starting, entering and asking a container costs, beside runc
//! and crun in the same run.
//!
//! It is measured in the lab with `--icount`, whose clock counts instructions: the figures are
//! virtual milliseconds (a million instructions each, over all processes, the host's kernel and
//! the guest), the same within a few per cent on any machine. They leave out cache and TLB misses
//! and the price of a hardware VM exit.
//!
//! [`measure`] runs in the lab, as a hidden command of this program; [`report`] is what it hands
//! back.

mod bundle;
mod measure;
mod report;
mod residence;
mod subject;

use std::ffi::OsString;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::build::{self, Profile};
use crate::lab::Lab;
use crate::rootfs::{self, Image};
use crate::{progress, workspace};

pub(crate) use bundle::config;
pub(crate) use measure::Arguments as MeasureArguments;
pub(crate) use measure::run as run_measure;
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
    Start(StartArguments),
}

#[derive(Debug, Args)]
struct StartArguments {
    /// How often each is measured, after two rounds to warm up
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Only these: runc, crun, namespace, microvm
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// On this machine and its own clock, not in the lab: for machines whose KVM is fit
    #[arg(long)]
    here: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// A round of everything takes 10 s of real time on a machine of 2026.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// `cargo xtask bench`.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Benchmark::Start(arguments) = &arguments.benchmark;
    let tree = build::ensure(Profile::Release)?;
    let folder = workspace::assembled().join("bench");
    fs::create_dir_all(&folder)
        .with_context(|| format!("Could not create {}", folder.display()))?;
    let file = folder.join("start.json");
    let mut command: Vec<OsString> = vec![
        workspace::own_program()?.into(),
        "measure".into(),
        "--programs".into(),
        tree.programs().into(),
        "--rootfs".into(),
        rootfs::ensure(Image::Busybox)?.into(),
        "--runs".into(),
        arguments.runs.to_string().into(),
        "--report".into(),
        file.clone().into(),
    ];
    if !arguments.only.is_empty() {
        command.extend(["--only".into(), arguments.only.join(",").into()]);
    }
    if file.exists() {
        fs::remove_file(&file)?;
    }
    let step = progress::step("Measuring");
    let status = if arguments.here {
        let status = std::process::Command::new(&command[0]).args(&command[1..]).status()?;
        status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
    } else {
        let lab = Lab { icount: true, limit: LIMIT, out: Some(folder), ..Lab::new(command) };
        lab.run()?
    };
    step.done();
    if status != 0 {
        bail!("The measurement ended with status {status}");
    }
    let text =
        fs::read_to_string(&file).with_context(|| format!("Could not read {}", file.display()))?;
    match arguments.format {
        Format::Json => println!("{text}"),
        Format::Table => {
            let report: Report = serde_json::from_str(&text).context("The measurement's report")?;
            println!("{report}");
            println!("All samples: {}", file.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}
