//! The project's own tools: `cargo xtask <command>`.
//!
//! One module for each command. What several commands need (where things are, running programs,
//! progress on the terminal) has a module of its own; nothing here is part of the product.

mod archive;
mod build;
mod digest;
mod kernel;
mod lab;
mod process;
mod progress;
mod rootfs;
mod setup;
mod sys;
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
