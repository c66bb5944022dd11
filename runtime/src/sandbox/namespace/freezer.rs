//! `pause` and `resume`, and what a frozen container needs to be able to die.

use std::io;

use super::record::{NoGroups, Record};
use crate::cgroup::freezer::{self, FreezerError};
use crate::sandbox::request::SandboxRef;

/// Why a container's processes were not frozen, or not set going again.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// `create` did not finish, or the state folder was changed.
    #[error("The record of the container cannot be read")]
    Record(#[source] io::Error),
    /// No control group.
    #[error(transparent)]
    NoGroups(#[from] NoGroups),
    /// The freezer.
    #[error(transparent)]
    Freezer(#[from] FreezerError),
}

/// Freezes every process of the container.
///
/// # Errors
/// When they do not freeze in time. They all run then.
pub fn pause(sandbox: &SandboxRef) -> Result<(), FreezeError> {
    let record = Record::load(&sandbox.state_folder).map_err(FreezeError::Record)?;
    Ok(freezer::freeze(record.groups()?)?)
}

/// Sets them going again.
///
/// # Errors
/// When the kernel refuses.
pub fn resume(sandbox: &SandboxRef) -> Result<(), FreezeError> {
    let record = Record::load(&sandbox.state_folder).map_err(FreezeError::Record)?;
    Ok(freezer::thaw(record.groups()?)?)
}

/// A frozen process of v1 takes a SIGKILL only when it runs again. After the signal, so that it
/// does nothing else then.
pub(super) fn let_die(sandbox: &SandboxRef) {
    if let Err(error) = resume(sandbox) {
        tracing::debug!(%error, "what may be frozen was not set going");
    }
}
