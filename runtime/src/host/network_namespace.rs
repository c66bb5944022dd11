//! A network namespace of the host: opened, told from the host's own, entered for a moment.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use cofferdam_protocol::netlink::Netlink;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use serde::{Deserialize, Serialize};

use super::sys;

/// The namespaces that are the host's: the caller's own, and the first process's.
const HOSTS: [&str; 2] = ["/proc/self/ns/net", "/proc/1/ns/net"];
/// The calling thread's.
const OWN: &str = "/proc/thread-self/ns/net";

/// Which namespace it is: no other has the same while this one lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceId {
    device: u64,
    inode: u64,
}

impl From<Metadata> for NamespaceId {
    fn from(metadata: Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// A network namespace, which lives as long as this.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
    id: NamespaceId,
}

impl NetworkNamespace {
    /// Opens the namespace at a path.
    ///
    /// # Errors
    /// When there is none. What is there but no network namespace is found out when it is entered.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let id = file.metadata()?.into();
        Ok(Self { file, id })
    }

    /// Opens the namespace of a process.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of_process(pid: i32) -> io::Result<Self> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// Which it is.
    #[must_use]
    pub const fn id(&self) -> NamespaceId {
        self.id
    }

    /// Whether it is one at all.
    #[must_use]
    pub fn is_one(&self) -> bool {
        sys::namespace_kind(self.file.as_fd()).is_ok_and(|kind| kind == libc::CLONE_NEWNET)
    }

    /// Enters it for good.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn stay(&self) -> io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }

    /// Does something in it. The caller's thread is in its own again afterwards, or the result is
    /// an error. Who is there already needs no right to enter.
    ///
    /// # Errors
    /// When it is no network namespace, or the caller may not enter it.
    pub fn inside<T>(&self, act: impl FnOnce() -> T) -> io::Result<T> {
        let own = File::open(OWN)?;
        if NamespaceId::from(own.metadata()?) == self.id {
            return Ok(act());
        }
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        let result = act();
        setns(&own, CloneFlags::CLONE_NEWNET)?;
        Ok(result)
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether a path leads to the host's own network. One that leads nowhere does not.
#[must_use]
pub fn is_hosts(path: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).ok().map(NamespaceId::from);
    id(path).is_some_and(|asked| HOSTS.iter().any(|own| id(Path::new(own)) == Some(asked)))
}

/// A conversation with the kernel about the namespace that the caller is in.
///
/// # Errors
/// When there is no socket.
pub fn netlink() -> io::Result<Netlink<File>> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    Ok(Netlink::new(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_own_network_is_the_hosts() {
        assert!(is_hosts(Path::new("/proc/self/ns/net")));
        assert!(!is_hosts(Path::new("/proc/self/ns/mnt")));
        assert!(!is_hosts(Path::new("/nonexistent")));
    }

    #[test]
    fn what_is_no_network_namespace_is_not_entered() {
        for other in ["/proc/self/ns/mnt", "/proc/self/stat"] {
            let other = NetworkNamespace::open(Path::new(other)).unwrap();
            assert!(!other.is_one() && other.inside(|| ()).is_err());
        }
    }

    #[test]
    fn who_is_in_a_namespace_need_not_enter_it() {
        let own = NetworkNamespace::open(Path::new(OWN)).unwrap();
        assert!(own.is_one());
        assert_eq!(own.inside(|| 7).unwrap(), 7);
    }
}
