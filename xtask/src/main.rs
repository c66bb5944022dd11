//! The project's own tools: `cargo xtask <command>`.
//!
//! One module for each command. What several commands need (where things are, running programs,
//! progress on the terminal) has a module of its own; nothing here is part of the product.

mod archive;
mod bench;
mod build;
mod demo;
mod digest;
mod e2e;
mod gates;
mod kernel;
mod kvm;
mod lab;
mod process;
mod progress;
mod rootfs;
mod setup;
mod sizes;
mod sys;
mod table;
mod tally;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own tools.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what a fresh Debian machine lacks.
    Setup,
    /// Build everything and assemble the runnable tree.
    Build(build::Arguments),
    /// Make a root file system, or find it in the cache.
    Rootfs(rootfs::Arguments),
    /// Run the end-to-end scenarios, each where it can run.
    E2e(e2e::Arguments),
    /// Run compiled scenarios from a list: what `e2e` does in the lab.
    #[command(hide = true)]
    Suite(e2e::SuiteArguments),
    /// Run every test there is.
    Test,
    /// Run everything that CI runs but the end-to-end scenarios.
    Prepush,
    /// Measure what containers cost, beside runc and crun.
    Bench(bench::Arguments),
    /// Measure here: what `bench` does in the lab.
    #[command(hide = true)]
    Measure(bench::MeasureArguments),
    /// Measure the network here: what `bench network` does in the lab.
    #[command(hide = true)]
    MeasureNetwork(bench::MeasureNetworkArguments),
    /// Measure engines here: what `bench engines` does in the lab.
    #[command(hide = true)]
    MeasureEngines(bench::MeasureEnginesArguments),
    /// One real application in namespaces and in a microVM, side by side.
    Demo,
    /// One half of the demo: what `demo` does in the lab.
    #[command(hide = true)]
    Application(demo::ApplicationArguments),
    /// Compare the programs' sizes with what is promised.
    CheckSizes,
    /// Run a command in a software-emulated machine that has a complete KVM.
    Lab(lab::Arguments),
    /// Build the guest kernel, or find it in the cache.
    Kernel(kernel::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup => setup::run(),
        Command::Build(arguments) => build::run(&arguments),
        Command::Rootfs(arguments) => rootfs::run(&arguments),
        Command::E2e(arguments) => e2e::run(&arguments),
        Command::Suite(arguments) => e2e::run_suite(&arguments),
        Command::Test => Ok(gates::test()),
        Command::Prepush => Ok(gates::prepush()),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Measure(arguments) => bench::run_measure(&arguments),
        Command::MeasureNetwork(arguments) => bench::run_measure_network(&arguments),
        Command::MeasureEngines(arguments) => bench::run_measure_engines(&arguments),
        Command::Demo => demo::run(),
        Command::Application(arguments) => demo::run_application(&arguments),
        Command::CheckSizes => sizes::run(),
        Command::Lab(arguments) => lab::run(arguments),
        Command::Kernel(arguments) => kernel::run(&arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
