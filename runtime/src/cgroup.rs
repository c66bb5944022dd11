//! Control groups on the host as files: freezing, limits, statistics, in both versions of the
//! kernel's interface; and the group of a whole sandbox.
//!
//! What this is not: it finds no group by itself. `create` recorded the folders; what a file is
//! called says which version and which controller a folder belongs to.
//!
//! Hostile: the container may have changed what is below its groups, not these files.

pub mod delegation;
pub mod freezer;
pub mod host;
pub mod limits;
pub mod oom;
pub mod statistics;
pub mod systemd;
pub mod usage;
pub mod writes;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use limits::Version;

/// The folders of one container's groups: one of each hierarchy with v1, one with v2.
#[derive(Clone, Copy, Debug)]
pub struct Groups<'a> {
    folders: &'a [PathBuf],
}

impl<'a> Groups<'a> {
    /// These folders.
    #[must_use]
    pub const fn new(folders: &'a [PathBuf]) -> Self {
        Self { folders }
    }

    /// Which version these are of. v1 has a memory controller's or a freezer's own folder.
    #[must_use]
    pub fn version(self) -> Version {
        let v1 = ["freezer.state", "memory.limit_in_bytes", "cpu.shares"];
        if v1.iter().any(|name| self.file(name).is_some()) { Version::V1 } else { Version::V2 }
    }

    /// The number in a file; absent: there is no such file, or no number in it.
    #[must_use]
    pub fn number(self, name: &str) -> Option<u64> {
        self.read(name).ok()?.trim().parse().ok()
    }

    /// The file of this name, in whichever group has it.
    #[must_use]
    pub fn file(self, name: &str) -> Option<PathBuf> {
        self.folders.iter().map(|folder| folder.join(name)).find(|path| path.exists())
    }

    /// What the file says.
    ///
    /// # Errors
    /// `NotFound` when no group has such a file.
    pub fn read(self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.file(name).ok_or(io::ErrorKind::NotFound)?)
    }

    /// Writes to the file.
    ///
    /// # Errors
    /// `NotFound` when no group has such a file.
    pub fn write(self, name: &str, value: &str) -> io::Result<()> {
        write(&self.file(name).ok_or(io::ErrorKind::NotFound)?, value)
    }
}

/// One `write(2)`, as the kernel wants it: it takes or refuses a value as a whole.
fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}
