//! What every measurement is told by who starts it in the lab.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

/// What is measured, and where that goes.
#[derive(Debug, Args)]
pub(crate) struct Asked {
    /// The folder of cofferdam's programs, with `guest` beside it
    #[arg(long)]
    pub(super) programs: PathBuf,
    /// The busybox root file system
    #[arg(long)]
    pub(super) rootfs: PathBuf,
    /// Samples of each
    #[arg(long)]
    pub(super) runs: u32,
    /// Only these subjects
    #[arg(long, value_delimiter = ',')]
    pub(super) only: Vec<String>,
    /// Where the report goes
    #[arg(long)]
    report: PathBuf,
}

impl Asked {
    /// The report's file, before the measuring changes what is to be seen of the machine.
    pub(super) fn report(&self) -> Result<File> {
        File::create(&self.report)
            .with_context(|| format!("Could not write {}", self.report.display()))
    }
}
