//! `pause` and `resume`: a container's processes frozen where they are, and set going again.
//!
//! The record says *paused* before they freeze and until they run again: see
//! [`Record::paused`](crate::state::record::Record::paused).

use crate::cli::{PauseArgs, ResumeArgs};
use crate::commands::{Context, IdError, parse_id};
use crate::host::log::with_causes;
use crate::sandbox;
use crate::state::status::{Refusal, Transition};
use crate::state::store::StoreError;

/// Why a container was not paused or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// The id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The state folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] sandbox::FreezeError),
}

pub(super) fn pause(context: &Context, args: &PauseArgs) -> Result<(), PauseError> {
    let (mut entry, lock) = context.store.open_locked(&parse_id(&args.target.id)?)?;
    entry.record.permit(Transition::Pause)?;
    entry.record.paused = true;
    entry.save(&lock)?;
    let kind = entry.record.isolation;
    let frozen = sandbox::pause(kind, &entry.sandbox());
    if frozen.is_err() {
        // What failed to freeze was set going again.
        entry.record.paused = false;
        if let Err(error) = entry.save(&lock) {
            tracing::warn!("{}", with_causes(&error));
        }
    }
    Ok(frozen?)
}

pub(super) fn resume(context: &Context, args: &ResumeArgs) -> Result<(), PauseError> {
    let (mut entry, lock) = context.store.open_locked(&parse_id(&args.target.id)?)?;
    entry.record.permit(Transition::Resume)?;
    sandbox::resume(entry.record.isolation, &entry.sandbox())?;
    entry.record.paused = false;
    Ok(entry.save(&lock)?)
}
