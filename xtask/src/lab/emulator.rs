//! The QEMU that the lab runs in.
//!
//! Debian 12's own, 7.2, computes wrong flags after `cmpxchg16b`, of which about one guest in 150
//! dies. An installed one is taken when it is new enough; else Debian's backport is unpacked in the
//! cache. It is not installed: that would replace the machine's own, and add a source of packages
//! to the machine's. It needs the libraries that the machine's own needs, which `setup` installs.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{process, progress, workspace};

const PROGRAM: &str = "qemu-system-x86_64";

/// The first major version that is known to compute the flags right.
const GOOD_VERSION: u32 = 10;

/// Where a newer one is, for Debian 12.
const SOURCE: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
                      http://deb.debian.org/debian bookworm-backports main\n";

/// The program, what it loads into a machine, and the machine's BIOS.
const PACKAGES: [&str; 3] = ["qemu-system-x86", "qemu-system-data", "seabios"];

/// A QEMU, and where its firmware is if not at the places that it knows by itself.
#[derive(Debug)]
pub(super) struct Emulator {
    program: PathBuf,
    firmware: Vec<PathBuf>,
}

impl Emulator {
    /// A command that runs it.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for folder in &self.firmware {
            command.arg("-L").arg(folder);
        }
        command
    }
}

/// The installed one if it is good, else the one in the cache, fetched if it is not there.
pub(super) fn ensure() -> Result<Emulator> {
    let Some(installed) = process::find(PROGRAM) else {
        bail!("The lab needs {PROGRAM}: run `cargo xtask setup`");
    };
    if major_version(&installed)? >= GOOD_VERSION {
        return Ok(Emulator { program: installed, firmware: Vec::new() });
    }
    let tree = workspace::cache().join("lab/qemu");
    if !tree.exists() {
        fetch(&tree)?;
    }
    let share = tree.join("usr/share");
    Ok(Emulator {
        program: tree.join("usr/bin").join(PROGRAM),
        firmware: vec![share.join("qemu"), share.join("seabios")],
    })
}

fn major_version(program: &Path) -> Result<u32> {
    let said = process::output(Command::new(program).arg("--version"))?;
    major_in(&said).with_context(|| format!("{} says no version: {said}", program.display()))
}

/// Of `QEMU emulator version 10.0.2 (Debian …)`.
fn major_in(said: &str) -> Option<u32> {
    let (_, version) = said.split_once(" version ")?;
    version.split('.').next()?.parse().ok()
}

/// Unpacks the newest backport.
fn fetch(tree: &Path) -> Result<()> {
    let step = progress::step("Fetching a newer QEMU for the lab");
    let folder = workspace::cache().join("lab");
    fs::create_dir_all(&folder)
        .with_context(|| format!("Could not create {}", folder.display()))?;
    let partial = tempfile::tempdir_in(&folder)?;
    let downloads = partial.path().join("downloads");
    fs::create_dir(&downloads)?;
    let apt = PrivateApt::new(partial.path())?;
    process::output(apt.command().arg("update"))?;
    let mut download = apt.command();
    download.args(["--target-release", "bookworm-backports", "download"]).args(PACKAGES);
    process::output(download.current_dir(&downloads))?;
    let unpacked = partial.path().join("tree");
    for package in fs::read_dir(&downloads)? {
        let mut extract = Command::new("dpkg-deb");
        process::output(extract.arg("--extract").arg(package?.path()).arg(&unpacked))?;
    }
    let version = major_version(&unpacked.join("usr/bin").join(PROGRAM))?;
    if version < GOOD_VERSION {
        bail!("Debian's backports have QEMU {version}; the lab needs {GOOD_VERSION}");
    }
    match fs::rename(&unpacked, tree) {
        // Somebody else was faster.
        Err(_) if tree.exists() => {}
        renamed => renamed.with_context(|| format!("Could not make {}", tree.display()))?,
    }
    step.done();
    Ok(())
}

/// An apt whose sources and lists are its own: the machine's are neither read nor written.
struct PrivateApt {
    options: Vec<String>,
}

impl PrivateApt {
    fn new(folder: &Path) -> Result<Self> {
        let sources = folder.join("sources.list");
        fs::File::create(&sources)?.write_all(SOURCE.as_bytes())?;
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let path = |name: &str| folder.join(name).display().to_string();
        Ok(Self {
            options: vec![
                "APT::Sandbox::User=root".to_owned(),
                format!("Dir::Etc::SourceList={}", path("sources.list")),
                "Dir::Etc::SourceParts=/dev/null".to_owned(),
                format!("Dir::State::Lists={}", path("lists")),
                format!("Dir::Cache={}", path("")),
            ],
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.arg("--quiet");
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_qemu_says() {
        let said = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(major_in(said), Some(7));
        assert_eq!(major_in("QEMU emulator version 10.0.2 (Debian 1:10.0.2)"), Some(10));
        assert_eq!(major_in("no QEMU"), None);
    }

    #[test]
    fn a_private_apt_reads_none_of_the_machines_sources() {
        let folder = tempfile::tempdir().unwrap();
        let apt = PrivateApt::new(folder.path()).unwrap();
        let uris = process::output(apt.command().args(["--print-uris", "update"])).unwrap();
        assert!(!uris.is_empty());
        let foreign = |line: &&str| !line.starts_with("'http://deb.debian.org/debian/dists/");
        assert_eq!(uris.lines().find(foreign), None);
    }
}
