//! Where the kernel's source comes from, and why it is believed to be what it says.
//!
//! Debian's package is authenticated by apt and changes with each security update. So a tarball is
//! taken when its checksum is listed in `kernel-config/sources.sha256`, or when dpkg confirms that
//! it is the installed package's unmodified file. Anything else is an error. With `LINUX_SRC` the
//! caller answers for the tree.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail, ensure};

use super::cache::Cache;
use super::options;
use crate::digest::{self, Inputs};

/// Debian's package with the newest long-term kernel that Debian 12 has.
const PACKAGE: &str = "linux-source-6.12";

/// Another source tree to build from.
const TREE_VARIABLE: &str = "LINUX_SRC";

/// A kernel source.
#[derive(Debug)]
pub(super) struct Source {
    /// Equal for equal sources: part of the cache's key.
    pub(super) identity: String,
    /// Where it is.
    pub(super) origin: Origin,
    /// Why it is believed to be genuine, for the manifest.
    pub(super) proof: String,
}

/// The two forms that a source comes in.
#[derive(Debug)]
pub(super) enum Origin {
    /// `linux-source-*.tar.xz`.
    Tarball(PathBuf),
    /// An unpacked tree, built from in place but not written to.
    Tree(PathBuf),
}

impl Source {
    /// The tree that `LINUX_SRC` names, or Debian's tarball.
    pub(super) fn find(cache: &Cache) -> Result<Self> {
        match env::var_os(TREE_VARIABLE) {
            Some(tree) => Self::from_tree(Path::new(&tree)),
            None => Self::from_package(cache),
        }
    }

    fn from_tree(tree: &Path) -> Result<Self> {
        let tree = fs::canonicalize(tree)
            .with_context(|| format!("{TREE_VARIABLE}={}: not there", tree.display()))?;
        ensure!(
            tree.join("Kconfig").is_file(),
            "{TREE_VARIABLE}={}: not a Linux source tree",
            tree.display()
        );
        let mut stamps = Vec::new();
        collect_stamps(&tree, &mut stamps)?;
        stamps.sort();
        let mut inputs = Inputs::default();
        for stamp in stamps {
            inputs.add(stamp);
        }
        Ok(Self {
            identity: format!("tree {}", inputs.name()),
            origin: Origin::Tree(tree),
            proof: format!("given by {TREE_VARIABLE}"),
        })
    }

    fn from_package(cache: &Cache) -> Result<Self> {
        let tarball = PathBuf::from(format!("/usr/src/{PACKAGE}.tar.xz"));
        ensure!(
            tarball.is_file(),
            "{} is not there: install {PACKAGE} (`cargo xtask setup` does), or set {TREE_VARIABLE} to a Linux source tree",
            tarball.display()
        );
        let stamp = stamp_of(&tarball)?;
        let (sha256, proof) = match cache.remembered_source(&stamp) {
            Some(known) => known,
            None => {
                let sha256 = digest::file(&tarball)
                    .with_context(|| format!("Cannot read {}", tarball.display()))?;
                let proof = prove(&tarball, &sha256)?;
                cache.remember_source(&stamp, &sha256, &proof)?;
                (sha256, proof)
            }
        };
        Ok(Self { identity: format!("tarball {sha256}"), origin: Origin::Tarball(tarball), proof })
    }
}

/// Why a tarball with this checksum is genuine.
fn prove(tarball: &Path, sha256: &str) -> Result<String> {
    let list = options::folder().join("sources.sha256");
    let listed =
        fs::read_to_string(&list).with_context(|| format!("Cannot read {}", list.display()))?;
    if let Some(name) = find_listed(&listed, sha256) {
        return Ok(format!("listed in kernel-config/sources.sha256 as {name}"));
    }
    if let Some(version) = version_confirmed_by_dpkg()? {
        eprintln!(
            "note: {PACKAGE} {version} is newer than kernel-config/sources.sha256 knows; dpkg confirms it. Its line there would be:"
        );
        eprintln!("{sha256}  {PACKAGE}_{version}");
        return Ok(format!(
            "unmodified file of the installed package {PACKAGE} {version} (dpkg --verify)"
        ));
    }
    bail!(
        "{} has the unknown checksum {sha256}, and dpkg does not confirm it as {PACKAGE}'s file. Reinstall the \
         package (apt-get install --reinstall {PACKAGE}); or, if you know where the file comes from, add its \
         line to kernel-config/sources.sha256, or unpack it and set {TREE_VARIABLE}",
        tarball.display()
    )
}

/// The name beside `sha256` in a list as sha256sum writes it.
fn find_listed<'a>(list: &'a str, sha256: &str) -> Option<&'a str> {
    list.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once("  "))
        .find(|(listed, _)| *listed == sha256)
        .map(|(_, name)| name.trim())
}

/// The installed package's version, if none of its files was changed since apt installed it.
fn version_confirmed_by_dpkg() -> Result<Option<String>> {
    let verify =
        Command::new("dpkg").args(["--verify", PACKAGE]).output().context("Cannot run dpkg")?;
    // It says nothing about files that are as they were.
    if !verify.status.success() || !verify.stdout.is_empty() {
        return Ok(None);
    }
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Version}", PACKAGE])
        .output()
        .context("Cannot run dpkg-query")?;
    Ok(query.status.success().then(|| String::from_utf8_lossy(&query.stdout).into_owned()))
}

/// Stamps of all files under `folder`, but version control's own.
fn collect_stamps(folder: &Path, stamps: &mut Vec<String>) -> Result<()> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("Cannot list {}", folder.display()))?
    {
        let entry = entry?;
        let kind = entry.file_type()?;
        if entry.file_name() == ".git" {
            continue;
        }
        if kind.is_dir() {
            collect_stamps(&entry.path(), stamps)?;
        } else if kind.is_file() {
            stamps.push(stamp_of(&entry.path())?);
        }
    }
    Ok(())
}

/// Path, size and time of change: reading a source's gigabyte at each call would take too long.
fn stamp_of(path: &Path) -> Result<String> {
    let metadata = fs::metadata(path).with_context(|| format!("Cannot read {}", path.display()))?;
    let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Ok(format!("{} {} {changed}\n", path.display(), metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_checksum_is_found_and_a_comment_is_not() {
        let list = "# aa  comment\naa  linux-source-6.12_1\nbb  linux-source-6.12_2\n";
        assert_eq!(find_listed(list, "bb"), Some("linux-source-6.12_2"));
        assert_eq!(find_listed(list, "cc"), None);
        assert_eq!(find_listed(list, "# aa"), None);
    }

    #[test]
    fn a_trees_identity_follows_its_files_and_not_its_version_control() {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("Kconfig"), "one").unwrap();
        fs::create_dir(tree.path().join(".git")).unwrap();
        let before = Source::from_tree(tree.path()).unwrap().identity;
        fs::write(tree.path().join(".git/HEAD"), "x").unwrap();
        assert_eq!(before, Source::from_tree(tree.path()).unwrap().identity);
        fs::write(tree.path().join("Kconfig"), "three").unwrap();
        assert_ne!(before, Source::from_tree(tree.path()).unwrap().identity);
    }

    #[test]
    fn a_folder_that_is_no_kernel_is_refused() {
        let empty = tempfile::tempdir().unwrap();
        assert!(
            Source::from_tree(empty.path())
                .unwrap_err()
                .to_string()
                .contains("not a Linux source tree")
        );
        assert!(Source::from_tree(Path::new("/nonexistent")).is_err());
    }
}
