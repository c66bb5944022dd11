//! JSON documents in a container's state folder: what one verb writes for the next.

use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::replace::replace_file;

/// Writes a document: completely, or not at all. For the owner of the folder alone.
///
/// # Errors
/// When the folder or the file system refuses.
pub fn save(path: &Path, document: &impl Serialize) -> io::Result<()> {
    replace_file(path, &serde_json::to_vec(document)?, 0o600)
}

/// Reads a document.
///
/// # Errors
/// When it is not there, is damaged, or cannot be read.
pub fn load<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// Reads a document, if its writer has come as far as writing it. A damaged one tells nothing, and
/// must not keep a container from being deleted.
///
/// # Errors
/// When it cannot be read now: what it would tell is not known then.
pub fn find<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match load(path) {
        Ok(document) => Ok(Some(document)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if is_damage(&error) => {
            let path = path.display();
            tracing::warn!("{path} is damaged, and what it names may be left: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_found_and_nobody_else_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        save(&path, &[1, 2]).unwrap();
        assert_eq!(load::<Vec<u8>>(&path).unwrap(), [1, 2]);
        assert_eq!(find::<Vec<u8>>(&path).unwrap(), Some(vec![1, 2]));
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn absence_and_damage_tell_nothing_and_what_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        assert_eq!(find::<Vec<u8>>(&path).unwrap(), None);
        for damaged in ["", "[1", "{}"] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(find::<Vec<u8>>(&path).unwrap(), None, "{damaged:?}");
            assert!(load::<Vec<u8>>(&path).is_err());
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(find::<Vec<u8>>(&path).is_err());
    }
}
