//! A file system of a scenario's own, which has all that a local one has.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// An ext4 file system in a file, mounted as long as this is there.
#[derive(Debug)]
pub struct Image {
    folder: TempDir,
}

impl Image {
    /// Makes and mounts one of 256 MiB.
    #[must_use]
    pub fn ext4() -> Self {
        let folder = TempDir::with_prefix("cofferdam-image-").unwrap();
        let file = folder.path().join("image");
        std::fs::File::create(&file).unwrap().set_len(256 << 20).unwrap();
        std::fs::create_dir(folder.path().join("mounted")).unwrap();
        // Built into some kernels, a module in others.
        let _ = Command::new("modprobe").args(["-q", "-a", "loop", "ext4"]).status();
        succeed(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-I", "256"]).arg(&file));
        let image = Self { folder };
        succeed(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(image.path()));
        image
    }

    /// Its root folder.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// A new folder in it.
    #[must_use]
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        unmount(&self.path());
    }
}

fn unmount(path: &Path) {
    succeed(Command::new("umount").arg(path));
}

fn succeed(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
