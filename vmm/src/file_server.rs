//! The threads that serve the shares, and how they come into their parts of the jail.
//!
//! ```text
//!  spawned ─▶ own mount namespace, /proc visible ─▶ /proc/self/fd taken ─▶ /proc gone, root sealed
//!          ─▶ seven capabilities ─▶ Landlock ─▶ seccomp ─▶ serving
//! ```

use std::os::fd::OwnedFd;

use cofferdam_protocol::vm_config::ShareKind;
use cofferdam_virtio::fs::{AttachedFs, FsError, FsServer, Watcher};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::jail::landlock::{self, LandlockError};
use crate::jail::privileges::{self, PrivilegeError};
use crate::jail::root::{self, RootError};

/// By what name the guest mounts the shares.
pub const TAG: &str = "cofferdam";

/// Why files cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FileServerError {
    /// Its root.
    #[error("The root of the shares cannot be made")]
    Root(#[from] RootError),
    /// Its capabilities.
    #[error("The file server cannot give up its privileges")]
    Privileges(#[from] PrivilegeError),
    /// Landlock.
    #[error("The file server cannot be kept to its shares")]
    Landlock(#[from] LandlockError),
    /// The root, for Landlock.
    #[error("The root of the shares cannot be opened")]
    OpenRoot(#[source] rustix::io::Errno),
    /// `/proc/self/fd`, for who watches.
    #[error("The watcher of the shares cannot be prepared")]
    Watcher(#[source] std::io::Error),
    /// The device.
    #[error("The file system device cannot be served")]
    Serve(#[from] FsError),
}

/// Everything up to the seccomp filter; in the thread that will serve.
///
/// # Errors
/// Names the wall that could not be put up.
pub fn confine(
    server: FsServer,
    shares: Vec<(OwnedFd, ShareKind)>,
    places: u8,
    proc: &OwnedFd,
) -> Result<AttachedFs, FileServerError> {
    let root = root::enter_shares(shares, places, proc)?;
    let server = server.prepare()?;
    root.seal()?;
    privileges::separate_from_user()?;
    privileges::reduce_to(&privileges::FILE_SERVER)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, "/", flags, Mode::empty()).map_err(FileServerError::OpenRoot)?;
    landlock::allow_only_below(root)?;
    Ok(server.attach()?)
}

/// Everything up to the seccomp filter of the thread that watches the host's folders. It works on
/// descriptors of the file server's, and its own root is empty.
///
/// # Errors
/// Names the wall that could not be put up.
pub fn confine_watcher(watcher: &Watcher, proc: &OwnedFd) -> Result<(), FileServerError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let descriptors = openat(proc, "self/fd", flags, Mode::empty());
    let descriptors = descriptors.map_err(|error| FileServerError::Watcher(error.into()))?;
    watcher.prepare(descriptors).map_err(FileServerError::Watcher)?;
    privileges::reduce_to(&privileges::WATCHER)?;
    landlock::deny_all()?;
    Ok(())
}
