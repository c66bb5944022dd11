//! Root file systems that containers of the tests, the demo and the benchmarks run in, cached by
//! what they are made from. Nobody writes into the cache: a bundle copies or overlays what it
//! finds here.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::digest::Inputs;
use crate::{process, progress, workspace};

/// `cargo xtask rootfs`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Which one
    name: Image,
}

/// A root file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Image {
    /// busybox and a link for each of its programs: starts as fast as anything can
    Busybox,
    /// A small Debian with redis-server and python3
    Debian,
    /// A Debian that boots as a machine does, with systemd, and has Docker
    Machine,
    /// A Debian with PostgreSQL, redis, nginx, Python and wrk, for the demonstration stack
    Stack,
}

/// The Debian release of the image: the machine's own, which `setup` is written for.
const SUITE: &str = "bookworm";
/// What the demo and the tests run in it.
const PACKAGES: &str = "redis-server,redis-tools,python3";
/// What a container that is a machine of its own runs.
const MACHINE_PACKAGES: &str = "systemd,systemd-sysv,dbus,procps,docker.io,iptables";
/// What the containers of the demonstration stack run, and what puts them under load.
const STACK_PACKAGES: &str =
    "postgresql,redis-server,redis-tools,nginx-light,python3,python3-psycopg2,python3-redis,wrk";
/// Counts up when the way an image is made changes.
const RECIPE: &str = "1";

/// `cargo xtask rootfs`: make sure that it is there, and say where.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    println!("{}", ensure(arguments.name)?.display());
    Ok(ExitCode::SUCCESS)
}

/// The image's folder, made if it is not in the cache.
pub(crate) fn ensure(image: Image) -> Result<PathBuf> {
    let (name, key) = match image {
        Image::Busybox => ("busybox", busybox_key()?),
        Image::Debian => ("debian", debian_key(PACKAGES)),
        Image::Machine => ("machine", debian_key(MACHINE_PACKAGES)),
        Image::Stack => ("stack", debian_key(STACK_PACKAGES)),
    };
    let cache = workspace::cache().join("rootfs");
    let folder = cache.join(format!("{name}-{key}"));
    if folder.exists() {
        return Ok(folder);
    }
    fs::create_dir_all(&cache).with_context(|| format!("Could not create {}", cache.display()))?;
    let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(&cache)?;
    let tree = partial.path().join("tree");
    fs::create_dir(&tree)?;
    match image {
        Image::Busybox => make_busybox(&tree)?,
        Image::Debian => make_debian(&tree, PACKAGES)?,
        Image::Machine => make_debian(&tree, MACHINE_PACKAGES)?,
        Image::Stack => make_debian(&tree, STACK_PACKAGES)?,
    }
    match fs::rename(&tree, &folder) {
        // Somebody else was faster.
        Err(_) if folder.exists() => Ok(folder),
        outcome => {
            outcome.with_context(|| format!("Could not make {}", folder.display()))?;
            Ok(folder)
        }
    }
}

fn busybox() -> Result<PathBuf> {
    process::find("busybox").context("busybox-static is not installed: run `cargo xtask setup`")
}

fn busybox_key() -> Result<String> {
    Ok(Inputs::default().add(RECIPE).add_file(&busybox()?)?.name())
}

fn debian_key(packages: &str) -> String {
    Inputs::default().add(RECIPE).add(SUITE).add(packages).name()
}

fn make_busybox(tree: &Path) -> Result<()> {
    for folder in ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "var"] {
        fs::create_dir(tree.join(folder))?;
    }
    fs::set_permissions(tree.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    let program = tree.join("bin/busybox");
    fs::copy(busybox()?, &program)?;
    let names = process::output(Command::new(&program).arg("--list"))?;
    for name in names.lines().filter(|name| *name != "busybox") {
        symlink("busybox", tree.join("bin").join(name))?;
    }
    for (link, target) in [("sbin", "bin"), ("usr/bin", "../bin"), ("usr/sbin", "../bin")] {
        symlink(target, tree.join(link))?;
    }
    let etc = tree.join("etc");
    fs::write(
        etc.join("passwd"),
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
         user:x:1000:1000:user:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    fs::write(
        etc.join("group"),
        "root:x:0:\ndaemon:x:1:\ntty:x:5:\nuser:x:1000:\nextra:x:1001:user\nnogroup:x:65534:\n",
    )?;
    Ok(())
}

fn make_debian(tree: &Path, packages: &str) -> Result<()> {
    if process::find("mmdebstrap").is_none() {
        bail!("mmdebstrap is not installed: run `cargo xtask setup`");
    }
    let step = progress::step("Making the Debian root file system");
    let archive = tree.with_extension("tar");
    let mut command = Command::new("mmdebstrap");
    // Nothing in it is read by a person: no documentation, no translations.
    command.args(["--quiet", "--variant=minbase", "--mode=root", "--format=tar"]);
    for glob in ["man/*", "doc/*", "locale/*", "info/*"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{glob}"));
    }
    command.arg(format!("--include={packages}")).arg(SUITE).arg(&archive);
    process::output(&mut command)?;
    let unpack = ["--extract", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--file"];
    // A container's /dev is mounted: the nodes stay out, as unpacking them takes CAP_MKNOD.
    let tar = Command::new("tar")
        .args(["--exclude=./dev/*", "--directory"])
        .arg(tree)
        .args(unpack)
        .arg(&archive)
        .status()?;
    if !tar.success() {
        bail!("Could not unpack the Debian root file system: tar ended with {tar}");
    }
    step.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busybox_tree_has_its_programs_and_users() {
        if process::find("busybox").is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        make_busybox(folder.path()).unwrap();
        assert_eq!(fs::read_link(folder.path().join("bin/sh")).unwrap(), Path::new("busybox"));
        assert!(fs::read_to_string(folder.path().join("etc/passwd")).unwrap().contains("root:x:0"));
    }
}
