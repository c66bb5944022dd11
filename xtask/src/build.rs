//! The runnable tree: `target/cofferdam/{bin,guest}`.
//!
//! ```text
//!  bin/cofferdam            glibc: libseccomp is a C library
//!  bin/cofferdam-vmm        static musl
//!  bin/containerd-shim-cofferdam-v2  static musl
//!  guest/vmlinux            the guest kernel
//!  guest/initramfs.cpio     /init is the agent, static musl
//!  guest/manifest.json      sizes and checksums of the two, which the runtime holds them to
//! ```
//!
//! The same sources and toolchain give the same initramfs and manifest, byte for byte.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;

use crate::archive::Archive;
use crate::{digest, kernel, process, workspace};

/// The target of what is static.
pub(crate) const MUSL: &str = "x86_64-unknown-linux-musl";

/// The package and the program that containerd looks for.
pub(crate) const SHIM: &str = "containerd-shim-cofferdam-v2";

/// `cargo xtask build`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Optimised: what is installed, tested end to end and measured (default)
    #[arg(long, conflicts_with = "debug")]
    release: bool,
    /// Quick to build
    #[arg(long)]
    debug: bool,
}

/// How the programs are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Optimised.
    Release,
    /// Quick to build.
    Debug,
}

/// The runnable tree.
#[derive(Clone, Debug)]
pub(crate) struct Tree(PathBuf);

impl Tree {
    /// Where the tree is or will be.
    pub(crate) fn place() -> Self {
        Self(workspace::assembled())
    }

    /// The folder of the programs.
    pub(crate) fn programs(&self) -> PathBuf {
        self.0.join("bin")
    }

    /// The folder of the guest's files.
    pub(crate) fn guest(&self) -> PathBuf {
        self.0.join("guest")
    }
}

/// `cargo xtask build`.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let profile = if arguments.debug { Profile::Debug } else { Profile::Release };
    let tree = ensure(profile)?;
    eprintln!("Ready: {}", tree.programs().join("cofferdam").display());
    Ok(ExitCode::SUCCESS)
}

/// Builds what is out of date and assembles the tree.
pub(crate) fn ensure(profile: Profile) -> Result<Tree> {
    let kernel = kernel::ensure()?;
    let runtime = compiled(profile, "cofferdam", None)?;
    // One at a time: built together, the monitor would get the features that the agent needs.
    let monitor = compiled(profile, "cofferdam-vmm", Some(MUSL))?;
    let agent = compiled(profile, "cofferdam-agent", Some(MUSL))?;
    let shim = compiled(profile, SHIM, Some(MUSL))?;

    let tree = Tree::place();
    for folder in [tree.programs(), tree.guest()] {
        fs::create_dir_all(&folder)
            .with_context(|| format!("Could not create {}", folder.display()))?;
    }
    put(&runtime, &tree.programs().join("cofferdam"))?;
    put(&monitor, &tree.programs().join("cofferdam-vmm"))?;
    put(&shim, &tree.programs().join(SHIM))?;
    put(&kernel.vmlinux, &tree.guest().join("vmlinux"))?;
    let initramfs = tree.guest().join("initramfs.cpio");
    write(&initramfs, &initramfs_of(&agent)?)?;
    let manifest = json!({
        "kernel": {
            "file": "vmlinux",
            "bytes": kernel.bytes,
            "sha256": kernel.sha256,
            "version": kernel.version,
        },
        "initramfs": {
            "file": "initramfs.cpio",
            "bytes": fs::metadata(&initramfs)?.len(),
            "sha256": digest::file(&initramfs)?,
            "protocol_version": protocol_version()?,
        },
    });
    let text = format!("{}\n", serde_json::to_string_pretty(&manifest)?);
    write(&tree.guest().join("manifest.json"), text.as_bytes())?;
    Ok(tree)
}

/// Compiles one package, cargo's progress going to the terminal, and says where its program is.
pub(crate) fn compiled(profile: Profile, package: &str, target: Option<&str>) -> Result<PathBuf> {
    let mut command = workspace::cargo("build");
    command.args(["--package", package]);
    let mut program = workspace::cargo_target();
    if let Some(target) = target {
        command.args(["--target", target]);
        program.push(target);
    }
    if profile == Profile::Release {
        command.arg("--release");
    }
    // Our own build has left these for us, not for what we build.
    command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_PKG_NAME");
    process::run(&mut command)?;
    program.push(if profile == Profile::Release { "release" } else { "debug" });
    program.push(package);
    Ok(program)
}

/// The guest's first file system: the agent, and the console that the kernel opens for it. Without
/// a console Rust's runtime wants `/dev/null` for the standard streams, or ends the program.
fn initramfs_of(agent: &Path) -> Result<Vec<u8>> {
    let program = fs::read(agent).with_context(|| format!("Could not read {}", agent.display()))?;
    let mut archive = Archive::new(Vec::new());
    archive.folder("dev")?;
    archive.character_device("dev/console", 0o600, (5, 1))?;
    archive.character_device("dev/null", 0o666, (1, 3))?;
    archive.file("init", 0o755, &program)?;
    Ok(archive.finish()?)
}

/// The protocol's version, read from its source: xtask links no crate of the product.
fn protocol_version() -> Result<u32> {
    let path = workspace::root().join("protocol/src/bounds.rs");
    let source =
        fs::read_to_string(&path).with_context(|| format!("Could not read {}", path.display()))?;
    source
        .lines()
        .filter_map(|line| line.strip_prefix("pub const PROTOCOL_VERSION: u32 = "))
        .find_map(|rest| rest.trim_end_matches(';').parse().ok())
        .with_context(|| format!("{} has no PROTOCOL_VERSION", path.display()))
}

/// Puts a copy in place at once: who runs or maps the file that was there keeps it.
fn put(from: &Path, to: &Path) -> Result<()> {
    let partial = partial_of(to);
    fs::copy(from, &partial)
        .and_then(|_| fs::rename(&partial, to))
        .with_context(|| format!("Could not copy {} to {}", from.display(), to.display()))
}

fn write(to: &Path, content: &[u8]) -> Result<()> {
    let partial = partial_of(to);
    fs::write(&partial, content)
        .and_then(|()| fs::rename(&partial, to))
        .with_context(|| format!("Could not write {}", to.display()))
}

fn partial_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_has_a_version() {
        assert!(protocol_version().unwrap() >= 1);
    }

    #[test]
    fn the_initramfs_is_reproducible() {
        let folder = tempfile::tempdir().unwrap();
        let agent = folder.path().join("agent");
        fs::write(&agent, "agent").unwrap();
        assert_eq!(initramfs_of(&agent).unwrap(), initramfs_of(&agent).unwrap());
    }
}
