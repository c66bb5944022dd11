//! The guest kernel: built from `kernel-config/`, cached by the hash of its inputs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

/// `cargo xtask kernel`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {}

/// A guest kernel in the cache.
#[derive(Debug)]
pub(crate) struct GuestKernel {
    /// The uncompressed ELF image.
    pub(crate) vmlinux: PathBuf,
    /// What `uname -r` says in the guest.
    pub(crate) version: String,
}

/// `cargo xtask kernel`: make sure that it is there, and say where.
pub(crate) fn run(_arguments: &Arguments) -> Result<ExitCode> {
    let kernel = ensure()?;
    println!("{} {}", kernel.version, kernel.vmlinux.display());
    Ok(ExitCode::SUCCESS)
}

/// The guest kernel from the cache, built if it is not there.
pub(crate) fn ensure() -> Result<GuestKernel> {
    bail!("There is no guest kernel yet under {}", crate::workspace::cache().display())
}
