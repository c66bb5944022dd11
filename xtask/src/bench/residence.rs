//! Measurements read memory only: in the lab they move to a root file system in RAM that holds
//! the runtimes, their libraries and the bundles, and nothing else.
//!
//! A file's every `open` and every name that is looked up in vain would else go to the host and
//! wait there, for a time that is the host's and not virtual.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};

/// A root file system in the making.
pub(super) struct MemoryRoot {
    folder: PathBuf,
}

impl MemoryRoot {
    /// Makes an empty one over a folder.
    pub(super) fn over(folder: &Path) -> Result<Self> {
        let tmpfs = Some("tmpfs");
        mount(tmpfs, folder, tmpfs, MsFlags::empty(), None::<&str>).context("A tmpfs")?;
        for name in ["dev", "etc", "proc", "run", "sys", "tmp", "usr", "var"] {
            fs::create_dir(folder.join(name))?;
        }
        for name in ["bin", "lib", "lib64", "sbin"] {
            let target = format!("usr/{name}");
            fs::create_dir(folder.join(&target))?;
            symlink(&target, folder.join(name))?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Where a path of the future is now.
    pub(super) fn at(&self, path: &Path) -> PathBuf {
        self.folder.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Takes in programs, the libraries that they are linked with and the loader.
    pub(super) fn take_in(&self, programs: &[PathBuf]) -> Result<()> {
        let mut files =
            BTreeSet::from(["/etc/ld.so.cache", "/etc/passwd", "/etc/group"].map(PathBuf::from));
        for program in programs {
            files.insert(program.clone());
            // It fails for a static program, which has no libraries.
            let listing =
                Command::new("ldd").arg(program).output().context("Could not start ldd")?;
            files.extend(libraries(&String::from_utf8_lossy(&listing.stdout)));
        }
        for file in &files {
            let copy = self.at(file);
            if let Some(parent) = copy.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::copy(file, &copy).with_context(|| format!("Could not copy {}", file.display()))?;
        }
        Ok(())
    }

    /// Makes it this process's root, for good. What the kernel offers comes along.
    pub(super) fn enter(&self) -> Result<()> {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).context("A mount namespace")?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        for name in ["dev", "proc", "run", "sys"] {
            let (from, to) = (Path::new("/").join(name), self.folder.join(name));
            mount(Some(&from), &to, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
                .with_context(|| format!("Could not take /{name} along"))?;
        }
        chdir(&self.folder)?;
        // The old root ends up on top of the new one, and is taken off.
        pivot_root(".", ".").context("Could not change the root")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        chdir("/")?;
        // As systemd has it on the hosts that runtimes know.
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
        Ok(())
    }
}

/// The paths in what `ldd` prints: `libc.so.6 => /lib/.../libc.so.6 (0x...)`, or the loader's
/// path alone.
fn libraries(listing: &str) -> Vec<PathBuf> {
    listing
        .lines()
        .filter_map(|line| {
            let target = line.rsplit_once("=> ").map_or(line, |(_, target)| target);
            let path = target.trim().split(" (").next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_the_loader() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f00)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f01)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(listing), expected.map(PathBuf::from));
    }
}
