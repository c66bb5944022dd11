//! Resource limits of the process.

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// A limit was refused.
#[derive(Debug, thiserror::Error)]
#[error("The limit {limit:?} cannot be set")]
pub struct LimitError {
    limit: Resource,
    source: Errno,
}

/// Sets the limits of the process, and the file mode mask that a file server needs: none.
///
/// Not among them: the size of files, since the guest may write what the operator's disk holds,
/// and of address space, which guest memory fills.
///
/// # Errors
/// When one is refused.
pub fn apply() -> Result<(), LimitError> {
    // A core file would hold the guest's memory.
    set(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // Each file that the guest knows of is a descriptor here.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    set(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    // Nothing is ever locked into memory.
    set(Resource::Memlock, Rlimit { current: Some(0), maximum: Some(0) })?;
    umask(Mode::empty());
    Ok(())
}

fn set(limit: Resource, value: Rlimit) -> Result<(), LimitError> {
    setrlimit(limit, value).map_err(|source| LimitError { limit, source })
}
