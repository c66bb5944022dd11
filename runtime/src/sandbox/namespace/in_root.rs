//! Mount points inside a root file system, made where they are missing.
//!
//! Hostile: the root file system. Each name is looked up by itself, links are read and followed
//! here, and `..` goes back along the folders that were entered: no link leads out, and none that
//! is swapped meanwhile. A link to nowhere leads to what is made there, as with runc.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;

/// What is to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// For a file system, or a folder to bind.
    Folder,
    /// For anything else to bind.
    File,
}

/// A place below a root.
pub(super) struct Place {
    /// Opened with `O_PATH`.
    pub(super) opened: OwnedFd,
    /// It was not there.
    pub(super) is_new: bool,
}

/// The place, made with what is missing on the way.
pub(super) fn open(root: BorrowedFd<'_>, path: &Path, wanted: Wanted) -> io::Result<Place> {
    let mut walk = Walk { entered: vec![root.try_clone_to_owned()?], links: 0 };
    let mut is_new = false;
    let mut names: VecDeque<OsString> = names_of(path);
    while let Some(name) = names.pop_front() {
        if name == ".." {
            walk.back();
            continue;
        }
        match walk.enter(&name)? {
            Found::Entered => {}
            Found::Link(target) => {
                walk.links += 1;
                if walk.links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                if target.is_absolute() {
                    walk.entered.truncate(1);
                }
                for name in names_of(&target).into_iter().rev() {
                    names.push_front(name);
                }
            }
            Found::Nothing => {
                let is_last = names.is_empty();
                is_new = true;
                walk.make(&name, if is_last { wanted } else { Wanted::Folder })?;
            }
        }
    }
    let opened = walk.entered.pop().ok_or(Errno::NOENT)?;
    Ok(Place { opened, is_new })
}

fn names_of(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

enum Found {
    Entered,
    Link(std::path::PathBuf),
    Nothing,
}

/// The folders from the root to where it stands.
struct Walk {
    entered: Vec<OwnedFd>,
    links: usize,
}

impl Walk {
    fn here(&self) -> io::Result<BorrowedFd<'_>> {
        self.entered.last().map(AsFd::as_fd).ok_or_else(|| Errno::NOENT.into())
    }

    fn back(&mut self) {
        if self.entered.len() > 1 {
            self.entered.pop();
        }
    }

    fn enter(&mut self, name: &OsString) -> io::Result<Found> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = match rustix::fs::openat(self.here()?, name, flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(e) => return Err(e.into()),
        };
        if FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode) == FileType::Symlink {
            let target = rustix::fs::readlinkat(&next, "", Vec::new())?;
            return Ok(Found::Link(OsString::from_vec(target.into_bytes()).into()));
        }
        self.entered.push(next);
        Ok(Found::Entered)
    }

    fn make(&mut self, name: &OsString, wanted: Wanted) -> io::Result<()> {
        let here = self.here()?;
        let made = match wanted {
            Wanted::Folder => rustix::fs::mkdirat(here, name, Mode::from_raw_mode(0o755)),
            Wanted::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(here, name, flags, Mode::from_raw_mode(0o644)).map(drop)
            }
        };
        match made {
            // Somebody else was quicker: whatever it is, it is looked at now.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        match self.enter(name)? {
            Found::Entered => Ok(()),
            Found::Link(_) | Found::Nothing => Err(Errno::AGAIN.into()),
        }
    }
}

/// Whether this is a folder.
pub(super) fn is_folder(descriptor: BorrowedFd<'_>) -> io::Result<bool> {
    let status = rustix::fs::statat(descriptor, "", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(status.st_mode) == FileType::Directory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn open_in(root: &Path, path: &str, wanted: Wanted) -> io::Result<Place> {
        let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        open(root.as_fd(), Path::new(path), wanted)
    }

    #[test]
    fn what_is_missing_is_made() {
        let root = tempfile::tempdir().unwrap();
        open_in(root.path(), "/a/b", Wanted::Folder).unwrap();
        open_in(root.path(), "/a/c/file", Wanted::File).unwrap();
        assert!(root.path().join("a/b").is_dir());
        assert!(root.path().join("a/c/file").is_file());
    }

    #[test]
    fn links_stay_inside_and_may_lead_to_nowhere() {
        let root = tempfile::tempdir().unwrap();
        symlink("/x/../../../../y/z", root.path().join("link")).unwrap();
        open_in(root.path(), "/link/deep", Wanted::File).unwrap();
        assert!(root.path().join("y/z/deep").is_file());
    }

    #[test]
    fn a_way_up_ends_at_the_root() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        std::fs::create_dir(&root).unwrap();
        open_in(&root, "../../made", Wanted::Folder).unwrap();
        assert!(root.join("made").is_dir());
        assert!(!outside.path().join("made").exists());
    }

    #[test]
    fn links_in_a_circle_come_to_an_end() {
        let root = tempfile::tempdir().unwrap();
        symlink("b", root.path().join("a")).unwrap();
        symlink("a", root.path().join("b")).unwrap();
        let error = open_in(root.path(), "/a", Wanted::Folder).err().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }
}
