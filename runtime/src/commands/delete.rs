//! `delete`: takes away everything that `create` made.

use crate::cli::DeleteArgs;
use crate::commands::{Context, IdError, parse_id};
use crate::host::hooks::{self, HookError};
use crate::host::log::with_causes;
use crate::sandbox;
use crate::state::status::{Refusal, Status, Transition};
use crate::state::store::{Entry, Lock, StoreError};

/// What was not taken away.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The state folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not now. The words are runc's.
    #[error("cannot delete container {id} that is not stopped: {status}")]
    Alive {
        /// Which.
        id: String,
        /// Where it is.
        status: Status,
    },
    /// Not now.
    #[error(transparent)]
    Refused(Refusal),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] sandbox::DeleteError),
    /// A `poststop` hook, with `--compat`: everything else is gone.
    #[error(transparent)]
    Hook(#[from] HookError),
}

pub(super) fn run(context: &Context, args: &DeleteArgs) -> Result<(), DeleteError> {
    let id = parse_id(&args.target.id)?;
    if args.force {
        context.store.sweep(&id)?;
    }
    let (entry, lock) = match context.store.open_locked(&id) {
        Err(StoreError::NotFound) if args.force => return Ok(()),
        // Nothing can be known of it but that it is to go.
        Err(StoreError::Damaged { path, source }) if args.force => {
            tracing::warn!("{} is damaged and removed: {source}", path.display());
            return Ok(path.parent().map_or(Ok(()), crate::state::store::remove_folder)?);
        }
        other => other?,
    };
    let transition = if args.force { Transition::ForceDelete } else { Transition::Delete };
    entry.record.permit(transition).map_err(|refusal| match refusal {
        Refusal::DeleteAlive(status) => DeleteError::Alive { id: id.to_string(), status },
        other => DeleteError::Refused(other),
    })?;
    take_away(&entry, &lock, context.global.compat)
}

/// Takes a container away that the caller has seen to be allowed to go.
pub(super) fn delete(entry: &Entry, lock: &Lock) -> Result<(), DeleteError> {
    take_away(entry, lock, false)
}

/// A hook that fails is a warning, as the specification has it; or, as runc has it, the last one
/// and an error. Nothing is left of the container either way.
fn take_away(entry: &Entry, lock: &Lock, hooks_must_not_fail: bool) -> Result<(), DeleteError> {
    sandbox::delete(entry.record.isolation, &entry.sandbox())?;
    let hooks = run_hooks(entry, hooks_must_not_fail);
    entry.remove(lock)?;
    Ok(hooks?)
}

/// The `poststop` hooks.
fn run_hooks(entry: &Entry, they_must_not_fail: bool) -> Result<(), HookError> {
    match entry.sandbox().spec() {
        Ok(spec) => {
            let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_ref());
            let state = entry.record.hook_view(Status::Stopped);
            if they_must_not_fail {
                return hooks::run_all("poststop", hooks, &state);
            }
            hooks::run_each("poststop", hooks, &state);
        }
        Err(error) => tracing::warn!("No poststop hooks: {}", with_causes(&error)),
    }
    Ok(())
}
