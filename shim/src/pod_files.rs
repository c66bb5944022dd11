//! The files that a pod's containers share beside their own: they lie in the bundle of its sandbox,
//! and go with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::cri::PodSandboxConfig;

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
        let resolv_conf = match resolv_conf(pod) {
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

/// What name servers a pod's containers ask; none: the host's.
fn resolv_conf(pod: &PodSandboxConfig) -> Option<String> {
    let dns = pod.dns_config.as_ref()?;
    let line = |word: &str, values: &[String]| match values.is_empty() {
        true => String::new(),
        false => format!("{word} {}\n", values.join(" ")),
    };
    let servers: String = dns.servers.iter().map(|one| format!("nameserver {one}\n")).collect();
    Some([line("search", &dns.searches), servers, line("options", &dns.options)].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::DNSConfig;

    #[test]
    fn name_servers_are_the_pod_s_or_the_host_s() {
        assert_eq!(resolv_conf(&PodSandboxConfig::default()), None);
        let dns = DNSConfig {
            servers: vec!["192.0.2.1".into(), "192.0.2.2".into()],
            searches: vec!["a.example".into(), "example".into()],
            ..Default::default()
        };
        let pod = PodSandboxConfig { dns_config: Some(dns).into(), ..Default::default() };
        let expected = "search a.example example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n";
        assert_eq!(resolv_conf(&pod).as_deref(), Some(expected));
    }
}
