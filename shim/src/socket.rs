//! The socket that containerd reaches a shim by: named by who asks and for what, so that a second
//! container of a pod finds the first one's shim.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Where containerd looks for a shim's address when it is started again, in the bundle.
pub(crate) const FILE: &str = "address";

/// Where containerd keeps its shims' sockets.
const FOLDER: &str = "/run/containerd/s";

/// A shim's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    path: PathBuf,
}

/// What stands at an address.
pub(crate) enum Found {
    /// Nothing did: this listens there now.
    Ours(UnixListener),
    /// A shim that answers.
    Theirs,
}

impl Address {
    /// Of the group of one of an engine's namespaces. `folder`: where engine wants it.
    pub(crate) fn of(folder: Option<&str>, engine: &str, namespace: &str, group: &str) -> Self {
        let whole = Path::new(engine).join(namespace).join(group);
        let digest = Sha256::digest(whole.as_os_str().as_encoded_bytes());
        let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { path: Path::new(folder.unwrap_or(FOLDER)).join(name) }
    }

    /// As containerd dials it.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Of an [`Self::url`].
    pub(crate) fn from_url(url: &str) -> Self {
        Self { path: url.strip_prefix("unix://").unwrap_or(url).into() }
    }

    /// Listens there, unless somebody does.
    ///
    /// # Errors
    /// The folder is not to be had, or something that is no socket stands there.
    pub(crate) fn claim(&self) -> io::Result<Found> {
        if let Some(folder) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
        }
        match UnixListener::bind(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if UnixStream::connect(&self.path).is_ok() {
                    return Ok(Found::Theirs);
                }
                // Of a shim that was killed.
                fs::remove_file(&self.path)?;
                self.listen(UnixListener::bind(&self.path)?)
            }
            bound => self.listen(bound?),
        }
    }

    fn listen(&self, listener: UnixListener) -> io::Result<Found> {
        fs::set_permissions(&self.path, Permissions::from_mode(0o600))?;
        Ok(Found::Ours(listener))
    }

    /// Takes it away if nobody listens there any more.
    pub(crate) fn remove_if_dead(&self) {
        if UnixStream::connect(&self.path).is_err() {
            self.remove();
        }
    }

    /// Takes it away. It may be gone.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_group_has_the_same_address_and_another_namespace_another() {
        let address = |namespace, group| Address::of(Some("/s"), "/c.sock", namespace, group);
        assert_eq!(address("a", "pod"), address("a", "pod"));
        assert_ne!(address("a", "pod"), address("b", "pod"));
        assert_eq!(Address::from_url(&address("a", "pod").url()), address("a", "pod"));
    }

    #[test]
    fn who_listens_is_found_and_who_was_killed_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::of(folder.path().to_str(), "", "", "group");
        let Found::Ours(first) = address.claim().unwrap() else { panic!("nobody was there") };
        assert!(matches!(address.claim().unwrap(), Found::Theirs));
        address.remove_if_dead();
        assert!(address.path.exists());
        drop(first);
        let Found::Ours(second) = address.claim().unwrap() else { panic!("it was killed") };
        drop(second);
        address.remove_if_dead();
        assert!(!address.path.exists());
    }
}
