//! A disk of a scenario's own: a loop device.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;

use nix::libc;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// A block device on a file, as long as this is there. Nobody may have it then.
#[derive(Debug)]
pub struct Disk {
    file: NamedTempFile,
    device: PathBuf,
}

impl Disk {
    /// Makes one of so many bytes, of which each is zero.
    #[must_use]
    pub fn of(bytes: u64) -> Self {
        let file = NamedTempFile::with_prefix("cofferdam-disk-").unwrap();
        file.as_file().set_len(bytes).unwrap();
        // Built into some kernels, a module in others.
        let _ = Command::new("modprobe").args(["-q", "loop"]).status();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file.path()).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let device = PathBuf::from(String::from_utf8(made.stdout).unwrap().trim());
        Self { file, device }
    }

    /// The host's node.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.device
    }

    /// What is on it, as far as it was flushed.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        fs::read(self.file.path()).unwrap()
    }

    /// Puts bytes at its beginning.
    pub fn write(&self, content: &[u8]) {
        use std::os::unix::fs::FileExt as _;
        let device = fs::OpenOptions::new().write(true).open(&self.device).unwrap();
        device.write_all_at(content, 0).unwrap();
        device.sync_all().unwrap();
    }

    /// Its number, major and minor.
    #[must_use]
    pub fn number(&self) -> (u32, u32) {
        let device = fs::metadata(&self.device).unwrap().rdev();
        (libc::major(device), libc::minor(device))
    }

    /// An entry of `linux.devices` that has it at this path, for root alone.
    #[must_use]
    pub fn device(&self, path: &str) -> Value {
        let (major, minor) = self.number();
        json!({ "path": path, "type": "b", "major": major, "minor": minor, "fileMode": 0o600,
                "uid": 0, "gid": 0 })
    }

    /// A rule of `linux.resources.devices` that allows this.
    #[must_use]
    pub fn rule(&self, access: &str) -> Value {
        let (major, minor) = self.number();
        json!({ "allow": true, "type": "b", "major": major, "minor": minor, "access": access })
    }

    /// Whether it ends when it is told to: nobody has it open.
    #[must_use]
    pub fn is_free(&self) -> bool {
        // One that somebody has goes later, by itself, and is there until then.
        let ended = Command::new("losetup").arg("--detach").arg(&self.device).status();
        ended.unwrap().success() && !fs::exists(self.backing_file()).unwrap()
    }

    fn backing_file(&self) -> PathBuf {
        let name = self.device.file_name().unwrap();
        std::path::Path::new("/sys/block").join(name).join("loop/backing_file")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).output();
    }
}
