//! An engine's configuration file on the disk, and the copy beside it of what it was.
//!
//! A link is followed, as engines do, and stays: the file at its end is replaced. Below
//! `--system-root` none may lead out of it, to the machine's own files.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use crate::engines::Edit;
use crate::host::replace::replace_lasting;

/// Behind the name of a file: as it was.
const BACKUP: &str = "before-cofferdam";

/// A file, as it is and as it was.
#[derive(Debug)]
pub(super) struct ConfigFile {
    /// As the engine calls it.
    pub(super) shown: PathBuf,
    /// Where it is, with no link left.
    place: PathBuf,
    metadata: Option<Metadata>,
    /// What it says, if there is one.
    pub(super) text: Option<String>,
    /// What it said before the first `install`, if that is kept.
    pub(super) backup: Option<String>,
}

/// What became of the copy.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Backup {
    /// Nothing: there was nothing to keep.
    Untouched,
    /// It is new.
    Made(PathBuf),
    /// There was one already, which stays.
    Kept(PathBuf),
    /// The file is again what it was.
    Removed,
}

/// Why a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The machine refuses.
    #[error("Cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A link.
    #[error("{0} is a link to nowhere: remove it, or make what it names")]
    Dangling(PathBuf),
    /// A folder, a device, a pipe.
    #[error("{0} is no regular file")]
    NotRegular(PathBuf),
    /// Not text.
    #[error("{0} is not UTF-8")]
    NotText(PathBuf),
    /// A link.
    #[error("{path} leads to {place}, outside of --system-root")]
    Outside {
        /// The file.
        path: PathBuf,
        /// Where it is.
        place: PathBuf,
    },
}

impl ConfigFile {
    /// Reads the file of this absolute path below the root.
    pub(super) fn read(root: &Path, path: &Path) -> Result<Self, FileError> {
        let shown = root.join(path.strip_prefix("/").unwrap_or(path));
        let root = fs::canonicalize(root).map_err(failed("find", root))?;
        let place = resolve(&shown)?;
        if !place.starts_with(&root) {
            return Err(FileError::Outside { path: shown, place });
        }
        let metadata = metadata(&place)?;
        let text = read(&place)?;
        let backup = read(&backup_of(&place))?;
        Ok(Self { shown, place, metadata, text, backup })
    }

    /// Makes it what the edit says.
    pub(super) fn apply(&self, edit: &Edit) -> Result<Backup, FileError> {
        match edit {
            Edit::Nothing => Ok(Backup::Untouched),
            Edit::Write { text, keeps_backup: true } => {
                let backup = self.back_up()?;
                self.write(&self.place, text).map(|()| backup)
            }
            Edit::Write { text, keeps_backup: false } => {
                self.write(&self.place, text)?;
                self.drop_backup_of(text)
            }
            Edit::Restore => {
                self.write(&self.place, self.backup.as_deref().unwrap_or_default())?;
                remove(&backup_of(&self.place)).map(|()| Backup::Removed)
            }
            Edit::Remove => remove(&self.place).map(|()| Backup::Untouched),
        }
    }

    /// One that is there is older, and so worth more.
    fn back_up(&self) -> Result<Backup, FileError> {
        let (place, shown) = (backup_of(&self.place), backup_of(&self.shown));
        match (&self.backup, &self.text) {
            (Some(_), _) => Ok(Backup::Kept(shown)),
            (None, Some(text)) => self.write(&place, text).map(|()| Backup::Made(shown)),
            (None, None) => Ok(Backup::Untouched),
        }
    }

    fn drop_backup_of(&self, text: &str) -> Result<Backup, FileError> {
        match &self.backup {
            Some(backup) if backup == text => {
                remove(&backup_of(&self.place)).map(|()| Backup::Removed)
            }
            Some(_) => Ok(Backup::Kept(backup_of(&self.shown))),
            None => Ok(Backup::Untouched),
        }
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), FileError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("make", folder))?;
        }
        replace_lasting(path, text.as_bytes(), self.metadata.as_ref())
            .map_err(failed("write", path))
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::Io { what, path: path.to_owned(), source }
}

fn backup_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(BACKUP);
    path.with_file_name(name)
}

/// Where a file is, or will be: of the folders on the way some may be missing.
fn resolve(path: &Path) -> Result<PathBuf, FileError> {
    for ancestor in path.ancestors() {
        match fs::canonicalize(ancestor) {
            Ok(place) => {
                let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
                return Ok(if rest == Path::new("") { place } else { place.join(rest) });
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("find", ancestor)(error));
            }
            Err(_) if fs::symlink_metadata(ancestor).is_ok() => {
                return Err(FileError::Dangling(ancestor.to_owned()));
            }
            Err(_) => {}
        }
    }
    Ok(path.to_owned())
}

fn metadata(path: &Path) -> Result<Option<Metadata>, FileError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
        Ok(_) => Err(FileError::NotRegular(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

fn read(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read(path) {
        Ok(bytes) => {
            String::from_utf8(bytes).map(Some).map_err(|_| FileError::NotText(path.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn remove(path: &Path) -> Result<(), FileError> {
    fs::remove_file(path).map_err(failed("remove", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const PATH: &str = "/etc/docker/daemon.json";

    fn write(text: &str, keeps_backup: bool) -> Edit {
        Edit::Write { text: text.to_owned(), keeps_backup }
    }

    fn root_with(text: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/docker")).unwrap();
        fs::write(root.path().join("etc/docker/daemon.json"), text).unwrap();
        root
    }

    #[test]
    fn a_file_and_its_folders_are_made_where_there_are_none() {
        let root = tempfile::tempdir().unwrap();
        let file = ConfigFile::read(root.path(), Path::new(PATH)).unwrap();
        assert_eq!(file.text, None);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        assert_eq!(file.apply(&write("new", false)).unwrap(), Backup::Untouched);
        assert_eq!(fs::read_to_string(root.path().join("etc/docker/daemon.json")).unwrap(), "new");
    }

    #[test]
    fn the_first_copy_stays_until_the_file_is_again_what_it_was() {
        let root = root_with("old");
        let read = || ConfigFile::read(root.path(), Path::new(PATH)).unwrap();
        assert!(matches!(read().apply(&write("new", true)).unwrap(), Backup::Made(_)));
        assert!(matches!(read().apply(&write("newer", true)).unwrap(), Backup::Kept(_)));
        assert_eq!(read().backup.as_deref(), Some("old"));
        assert_eq!(read().apply(&Edit::Restore).unwrap(), Backup::Removed);
        assert_eq!((read().text.as_deref(), read().backup), (Some("old"), None));
    }

    #[test]
    fn a_link_stays_and_the_file_at_its_end_is_written() {
        let root = root_with("");
        let folder = root.path().join("etc/docker");
        fs::rename(folder.join("daemon.json"), root.path().join("real")).unwrap();
        symlink("../../real", folder.join("daemon.json")).unwrap();
        let file = ConfigFile::read(root.path(), Path::new(PATH)).unwrap();
        file.apply(&write("new", true)).unwrap();
        assert!(fs::symlink_metadata(folder.join("daemon.json")).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(root.path().join("real")).unwrap(), "new");
        assert!(root.path().join("real.before-cofferdam").exists());
    }

    #[test]
    fn what_is_no_text_file_of_this_root_is_refused() {
        let read = |root: &tempfile::TempDir| ConfigFile::read(root.path(), Path::new(PATH));
        let root = root_with("");
        let path = root.path().join("etc/docker/daemon.json");
        fs::write(&path, b"\xff").unwrap();
        assert!(matches!(read(&root), Err(FileError::NotText(_))));
        fs::remove_file(&path).unwrap();
        symlink("/etc/passwd", &path).unwrap();
        assert!(matches!(read(&root), Err(FileError::Outside { .. })));
        fs::remove_file(&path).unwrap();
        symlink("/nowhere/at/all", &path).unwrap();
        assert!(matches!(read(&root), Err(FileError::Dangling(_))));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(read(&root), Err(FileError::NotRegular(_))));
    }
}
