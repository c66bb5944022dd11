//! The guest kernel: built from `kernel-config/`, cached by the hash of its inputs.
//!
//! ```text
//!   options (kernel-config/*.config) ─┐
//!   source (Debian's tarball or tree) ┼─> recipe ──key──> cache hit ──────────────────> vmlinux
//!   compiler                         ─┘                └> miss: compile ─> publish ──┘
//! ```
//!
//! What is published is complete: a build works in a folder beside the cache's entries, and its
//! result is moved in place by one rename. An interrupted build goes on where it stopped.

mod cache;
mod compile;
mod initcalls;
mod meter;
mod options;
mod recipe;
mod source;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use cache::Cache;
use options::Options;
use recipe::Recipe;
use source::Source;

/// `cargo xtask kernel`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Keep the unpacked source and the objects, for quick rebuilds while options are tried.
    #[arg(long)]
    keep_work: bool,
    /// Print every option with its reason, as a Markdown table, and build nothing.
    #[arg(long)]
    print_options: bool,
}

/// A guest kernel in the cache.
#[derive(Debug)]
pub(crate) struct GuestKernel {
    /// The uncompressed ELF image.
    pub(crate) vmlinux: PathBuf,
    /// What `uname -r` says in the guest.
    pub(crate) version: String,
    /// The image's SHA-256, in hexadecimal.
    pub(crate) sha256: String,
    /// The image's size.
    pub(crate) bytes: u64,
}

/// `cargo xtask kernel`: make sure that it is there, and say where.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.print_options {
        print!("{}", Options::load(&options::folder())?.as_markdown());
        return Ok(ExitCode::SUCCESS);
    }
    let kernel = find_or_build(arguments.keep_work)?;
    println!(
        "Linux {}, {:.1} MiB, sha256 {}\n{}",
        kernel.version,
        mebibytes(kernel.bytes),
        kernel.sha256,
        kernel.vmlinux.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// The guest kernel from the cache, built if it is not there.
pub(crate) fn ensure() -> Result<GuestKernel> {
    find_or_build(false)
}

fn find_or_build(keep_work: bool) -> Result<GuestKernel> {
    let options = Options::load(&options::folder())?;
    // The lock is held to the end: two builds in the same cache take turns.
    let cache = Cache::open(&crate::workspace::cache().join("kernel"))?;
    let source = Source::find(&cache)?;
    let recipe = Recipe { options, source, compiler: recipe::compiler()? };
    let key = recipe.key();
    if let Some(kernel) = cache.find(&key)? {
        return Ok(kernel);
    }
    let built = compile::compile(&recipe, &cache.work())?;
    let kernel = cache.publish(&key, &recipe, &built)?;
    if !keep_work {
        cache.discard_work()?;
    }
    Ok(kernel)
}

// Precision does not matter: it is for people to read.
#[allow(clippy::cast_precision_loss)]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
