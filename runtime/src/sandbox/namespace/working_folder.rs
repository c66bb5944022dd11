//! The working folder of a container's first process, made where the image has none: before the
//! root file system is mounted, as it may be mounted read-only.
//!
//! Hostile: the root file system. Every name is looked up as if the root were the process's own, so
//! that no link in it leads out of it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::job::ConstructJob;

/// Makes it, unless a mount covers it: then it is made inside, by the process itself.
pub(super) fn make(job: &ConstructJob) -> io::Result<()> {
    let cwd = &job.process.cwd;
    let covered =
        job.spec.mounts().iter().flatten().any(|mount| {
            mount.destination() != Path::new("/") && cwd.starts_with(mount.destination())
        });
    if covered {
        return Ok(());
    }
    make_below(&job.rootfs, cwd)
}

fn make_below(root: &Path, path: &Path) -> io::Result<()> {
    let root = rustix::fs::open(root, FOLDER, Mode::empty())?;
    let mut folder = root.try_clone()?;
    let mut below = std::path::PathBuf::new();
    for name in path.components() {
        let Component::Normal(name) = name else { continue };
        below.push(name);
        folder = match enter(&root, &below) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                    // A read-only file system: the process itself will say that it is not there.
                    Err(Errno::ROFS) => return Ok(()),
                    // A link to nowhere, for one: the same.
                    Err(Errno::EXIST) => return Ok(()),
                    other => other?,
                }
                enter(&root, &below)?
            }
            // A file, a loop of links: the same.
            Err(_) => return Ok(()),
            Ok(folder) => folder,
        };
    }
    Ok(())
}

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn enter(root: &OwnedFd, below: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(root, below, FOLDER, Mode::empty(), ResolveFlags::IN_ROOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_does_not_lead_out_of_the_root() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("way-out")).unwrap();
        make_below(root.path(), Path::new("/way-out/made")).unwrap();
        assert!(!outside.path().join("made").exists());
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_there_stays() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("a")).unwrap();
        make_below(root.path(), Path::new("/a/b/c")).unwrap();
        make_below(root.path(), Path::new("/a/b/c")).unwrap();
        assert!(root.path().join("a/b/c").is_dir());
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a"), "x").unwrap();
        make_below(root.path(), Path::new("/a/b")).unwrap();
        assert!(root.path().join("a").is_file());
    }
}
