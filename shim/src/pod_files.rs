//! The files that a pod's containers share beside their own: they lie in the bundle of its sandbox,
//! and go with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::pod;
use crate::pod::message::PodSandboxConfig;

/// Of a pod's `/dev/shm`, as containerd's own sandboxes have it: 64 MiB.
const MEMORY_OPTIONS: &str = "mode=1777,size=65536k";

/// A pod's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFiles {
    folder: PathBuf,
}

impl PodFiles {
    /// In a sandbox's bundle.
    pub(crate) fn of(bundle: &Path) -> Self {
        Self { folder: bundle.to_owned() }
    }

    /// `/etc/hostname`.
    pub(crate) fn hostname(&self) -> PathBuf {
        self.folder.join("hostname")
    }

    /// `/etc/hosts`.
    pub(crate) fn hosts(&self) -> PathBuf {
        self.folder.join("hosts")
    }

    /// `/etc/resolv.conf`.
    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.folder.join("resolv.conf")
    }

    /// `/dev/shm`, a file system of its own.
    pub(crate) fn memory(&self) -> PathBuf {
        self.folder.join("shm")
    }

    /// Writes and mounts them: what the pod does not say is the host's.
    ///
    /// # Errors
    /// The bundle cannot be written to, or memory not be mounted. Nothing is mounted then.
    pub(crate) fn make(&self, pod: &PodSandboxConfig) -> io::Result<()> {
        let hostname = match pod.hostname.is_empty() {
            true => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
            false => pod.hostname.clone(),
        };
        fs::write(self.hostname(), format!("{hostname}\n"))?;
        fs::write(self.hosts(), of_the_host("/etc/hosts")?)?;
        let resolv_conf = match pod::resolv_conf(pod) {
            Some(text) => text.into_bytes(),
            None => of_the_host("/etc/resolv.conf")?,
        };
        fs::write(self.resolv_conf(), resolv_conf)?;
        fs::create_dir_all(self.memory())?;
        let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        Ok(mount(Some("shm"), &self.memory(), Some("tmpfs"), flags, Some(MEMORY_OPTIONS))?)
    }

    /// Takes the mount away, so that the bundle can be removed. There may be none.
    pub(crate) fn unmount(&self) {
        let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        while umount2(&self.memory(), flags).is_ok() {}
    }
}

/// A host may do without.
fn of_the_host(path: &str) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}
