//! Files that appear whole or not at all.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

const PERMISSIONS: u32 = 0o7777;
const FOR_OWNER: u32 = 0o600;
const FOR_ALL_TO_READ: u32 = 0o644;

/// Writes a file beside its place and renames it there: a reader sees the old one or the new one.
/// No `fsync`: what is written here does not outlive the machine's boot.
///
/// # Errors
/// When the folder or the file system refuses; nothing is left of the new file then.
pub fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    through_draft(path, |draft| create(draft, mode)?.write_all(bytes))
}

/// The same for a file that outlives the boot: it is on the disk before it has its name. Owner and
/// mode are those of the other file, if there is one; else everyone can read it.
///
/// # Errors
/// As [`replace_file`].
pub fn replace_lasting(path: &Path, bytes: &[u8], like: Option<&Metadata>) -> io::Result<()> {
    through_draft(path, |draft| {
        let mut file = create(draft, FOR_OWNER)?;
        file.write_all(bytes)?;
        if let Some(like) = like {
            fchown(&file, Some(like.uid()), Some(like.gid()))?;
        }
        let mode = like.map_or(FOR_ALL_TO_READ, |like| like.mode() & PERMISSIONS);
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    })?;
    File::open(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?.sync_all()
}

fn through_draft(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(name);
    let written = write(&draft).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(mode).custom_flags(libc::O_NOFOLLOW);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_file_takes_the_place_of_the_old() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        replace_file(&path, b"1", 0o644).unwrap();
        replace_file(&path, b"22", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"22");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(replace_file(&path, b"1", 0o644).is_err());
        assert!(replace_lasting(&path, b"1", None).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_lasting_file_has_the_mode_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.json");
        let mode = || fs::metadata(&path).unwrap().mode() & PERMISSIONS;
        replace_lasting(&path, b"1", None).unwrap();
        assert_eq!(mode(), FOR_ALL_TO_READ);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let before = fs::metadata(&path).unwrap();
        replace_lasting(&path, b"22", Some(&before)).unwrap();
        assert_eq!((mode(), fs::read(&path).unwrap()), (0o640, b"22".to_vec()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
