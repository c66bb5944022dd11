//! Paths of a container, resolved beneath its root whatever symbolic links lie on the way.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// As the kernel: more symbolic links than these on the way to a missing target are a loop.
const MAX_LINKS: u32 = 40;

const FOLDER_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// What a missing path is made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A folder.
    Folder,
    /// An empty file.
    File,
}

/// A container's root folder.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Root {
    /// Opens the folder at a path of the agent's own.
    pub(crate) fn open(path: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens what is at `path`, without following a symbolic link out of the root.
    pub(crate) fn find(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "/" } else { path };
        let open = || {
            rustix::fs::openat2(
                &self.0,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            )
        };
        // EAGAIN: something was renamed or mounted on the way, which the kernel could not follow.
        loop {
            match open() {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Whether there is a symbolic link at `path`, or on the way.
    pub(crate) fn is_link(&self, path: &str) -> bool {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve);
        found.err() == Some(Errno::LOOP)
    }

    /// What is at `path`; made, with the folders that lead to it, when nothing is.
    pub(crate) fn find_or_make(&self, path: &str, kind: Kind) -> Result<OwnedFd, Errno> {
        self.find_or_make_within(path, kind, MAX_LINKS)
    }

    fn find_or_make_within(&self, path: &str, kind: Kind, links: u32) -> Result<OwnedFd, Errno> {
        match self.find(path, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let mut made = String::new();
        let mut components = path.split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = components.next() {
            let last = components.peek().is_none();
            let kind = if last { kind } else { Kind::Folder };
            self.step_into(&made, name, kind, links)?;
            made.push('/');
            made.push_str(name);
        }
        self.find(path, OFlags::PATH)
    }

    /// Makes `name` in the existing folder `parent` unless it is there.
    fn step_into(&self, parent: &str, name: &str, kind: Kind, links: u32) -> Result<(), Errno> {
        let full = format!("{parent}/{name}");
        match self.find(&full, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            found => return found.map(drop),
        }
        let folder = self.find(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        match make(folder.as_fd(), name, kind) {
            Err(Errno::EXIST) => {}
            made => return made,
        }
        // A symbolic link to nothing: make what it points to.
        let target = rustix::fs::readlinkat(&folder, name, Vec::new())?;
        let target = target.to_str().map_err(|_| Errno::ILSEQ)?;
        let target =
            if target.starts_with('/') { target.to_owned() } else { format!("{parent}/{target}") };
        let links = links.checked_sub(1).ok_or(Errno::LOOP)?;
        self.find_or_make_within(&target, kind, links).map(drop)
    }

    /// The folder that holds `path`, made when missing, and the last component.
    pub(crate) fn parent_of<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str), Errno> {
        let trimmed = path.trim_end_matches('/');
        let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        if matches!(name, "" | "." | "..") {
            return Err(Errno::INVAL);
        }
        Ok((self.find_or_make(parent, Kind::Folder)?, name))
    }
}

fn make(folder: BorrowedFd<'_>, name: &str, kind: Kind) -> Result<(), Errno> {
    match kind {
        Kind::Folder => rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(FOLDER_MODE)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(FILE_MODE)).map(drop)
        }
    }
}

/// Whether an open file is a folder.
pub(crate) fn is_folder(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mode = rustix::fs::statat(file, "", AtFlags::EMPTY_PATH)?.st_mode;
    Ok(FileType::from_raw_mode(mode) == FileType::Directory)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path().to_str().unwrap()).unwrap();
        (folder, root)
    }

    #[test]
    fn missing_folders_are_made() {
        let (folder, root) = root();
        root.find_or_make("/a/b/c", Kind::Folder).unwrap();
        root.find_or_make("/a/file", Kind::File).unwrap();
        assert!(folder.path().join("a/b/c").is_dir());
        assert!(folder.path().join("a/file").is_file());
    }

    #[test]
    fn a_link_out_of_the_root_stays_in_it() {
        let (folder, root) = root();
        symlink("/etc", folder.path().join("escape")).unwrap();
        symlink("../../../..", folder.path().join("up")).unwrap();
        root.find_or_make("/escape/made", Kind::File).unwrap();
        root.find_or_make("/up/over", Kind::File).unwrap();
        assert!(folder.path().join("etc/made").is_file());
        assert!(folder.path().join("over").is_file());
        assert!(!std::path::Path::new("/etc/made").exists());
    }

    #[test]
    fn a_link_to_nothing_gets_its_target() {
        let (folder, root) = root();
        symlink("real", folder.path().join("link")).unwrap();
        root.find_or_make("/link/x", Kind::Folder).unwrap();
        assert!(folder.path().join("real/x").is_dir());
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let (folder, root) = root();
        symlink("b", folder.path().join("a")).unwrap();
        symlink("a", folder.path().join("b")).unwrap();
        assert_eq!(root.find_or_make("/a/x", Kind::Folder).unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let (folder, root) = root();
        fs::write(folder.path().join("file"), "").unwrap();
        assert_eq!(root.find_or_make("/file/x", Kind::Folder).unwrap_err(), Errno::NOTDIR);
    }

    #[test]
    fn the_root_itself_has_no_parent() {
        let (_folder, root) = root();
        assert_eq!(root.parent_of("/").unwrap_err(), Errno::INVAL);
    }
}
