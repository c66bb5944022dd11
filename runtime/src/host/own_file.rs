//! Files whose content is believed because of who could have written it.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

/// Opens a file for reading: not through a link, and without waiting for whoever is at the other end
/// of a pipe.
///
/// # Errors
/// When there is none, or it is a link.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Whether the caller or root owns it, and its mode has none of these bits.
#[must_use]
pub fn is_own(seen: &Metadata, forbidden: u32) -> bool {
    [0, rustix::process::geteuid().as_raw()].contains(&seen.uid()) && seen.mode() & forbidden == 0
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_file_of_ones_own_has_none_of_the_forbidden_bits() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).unwrap();
        let seen = file.as_file().metadata().unwrap();
        assert!(is_own(&seen, 0o022));
        assert!(!is_own(&seen, 0o077));
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        symlink("file", folder.path().join("link")).unwrap();
        open(&folder.path().join("file")).unwrap();
        assert!(open(&folder.path().join("link")).is_err());
    }
}
