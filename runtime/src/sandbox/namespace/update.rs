//! `update`: other limits for the container's groups.

use std::io;

use oci_spec::runtime::LinuxResources;

use super::cache_allocation::{self, CacheAllocationError};
use super::record::{NoGroups, Record};
use crate::cgroup::Groups;
use crate::cgroup::limits::{self, LimitError, Present, Version};
use crate::cgroup::systemd::{ScopeError, Unit};
use crate::cgroup::usage::{self, BelowUsage};
use crate::cgroup::writes::{self, WriteError};
use crate::sandbox::request::{SandboxRef, UpdateRequest};
use crate::spec::SpecError;

/// Why the limits are as they were.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// `create` did not finish, or the state folder was changed.
    #[error("The record of the container cannot be read")]
    Record(#[source] io::Error),
    /// No control group.
    #[error(transparent)]
    NoGroups(#[from] NoGroups),
    /// The saved configuration.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The limits contradict each other.
    #[error("The limits cannot be kept")]
    Limits(#[from] LimitError),
    /// Less memory than is used, where that was not to be.
    #[error(transparent)]
    BelowUsage(#[from] BelowUsage),
    /// The kernel refused.
    #[error("The container's limits cannot be set")]
    Write(#[from] WriteError),
    /// systemd.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// Intel RDT.
    #[error(transparent)]
    CacheAllocation(#[from] CacheAllocationError),
}

/// Changes the limits of the container's groups.
///
/// # Errors
/// Then they are as they were.
pub fn update(sandbox: &SandboxRef, request: &UpdateRequest) -> Result<(), UpdateError> {
    let record = Record::load(&sandbox.state_folder).map_err(UpdateError::Record)?;
    let groups = record.groups()?;
    let wanted = &request.change.written;
    let version = groups.version();
    let present = Present { memory_limit: groups.number("memory.limit_in_bytes") };
    let list = limits::writes(version, wanted, present)?;
    if version == Version::V2 {
        check_usage(wanted, groups)?;
    }
    let schemas = cache_allocation::schemas(request)?;
    let unit = record.unit.as_ref().map(|path| Unit::known(path.clone(), sandbox.id.as_str()));
    writes::apply_and(groups, &list, || match &unit {
        Some(unit) => unit.tell(&list).map_err(UpdateError::Scope),
        None => Ok(()),
    })?;
    if let Some(schemas) = schemas {
        schemas.write(&sandbox.id, &sandbox.spec()?)?;
    }
    Ok(())
}

/// v1 refuses it by itself.
fn check_usage(wanted: &LinuxResources, groups: Groups<'_>) -> Result<(), BelowUsage> {
    match groups.number("memory.current") {
        Some(used) if usage::is_to_be_checked(wanted) => usage::check(wanted, used),
        _ => Ok(()),
    }
}
