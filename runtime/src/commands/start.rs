//! `start`: lets a created container's program run.

use std::time::Instant;

use oci_spec::runtime::Spec;

use crate::cli::StartArgs;
use crate::commands::{Context, IdError, parse_id};
use crate::figures::{self, Phase, Timed};
use crate::host::hooks::{self, HookError};
use crate::host::log::with_causes;
use crate::sandbox;
use crate::sandbox::request::{SandboxRef, StartFailureKind};
use crate::spec::SpecError;
use crate::state::status::{Refusal, Status, Transition};
use crate::state::store::{Entry, Lock, StoreError};

/// Why the program does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The state folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The copy of the configuration.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] sandbox::StartError),
    /// A hook; the container was stopped.
    #[error(transparent)]
    Hook(#[from] HookError),
}

impl StartError {
    /// Whether it is the program's own fault.
    #[must_use]
    pub fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::Sandbox(error) => error.start_failure(),
            _ => None,
        }
    }
}

pub(super) fn run(context: &Context, args: &StartArgs) -> Result<(), StartError> {
    let id = parse_id(&args.target.id)?;
    let (mut entry, lock) = context.store.open_locked(&id)?;
    entry.record.permit(Transition::Start)?;
    // Read before anything is done: `poststart` hooks must not fail for a file then.
    let spec = entry.sandbox().spec()?;
    start(context, &mut entry, &lock, &spec)
}

/// Starts a container that the caller has seen to be created.
pub(super) fn start(
    context: &Context,
    entry: &mut Entry,
    lock: &Lock,
    spec: &Spec,
) -> Result<(), StartError> {
    let kind = entry.record.isolation;
    let sandbox = entry.sandbox();
    let begun = Instant::now();
    if let Err(error) = sandbox::start(kind, &sandbox) {
        // As runc, which has said by then that the container is started.
        if context.global.compat && error.is_of_hook() {
            run_hooks(entry, &sandbox, spec)?;
        }
        return Err(error.into());
    }
    figures::time(Timed::Phase(kind, Phase::Start), begun.elapsed());
    entry.record.phase = Status::Running;
    entry.save(lock)?;
    run_hooks(entry, &sandbox, spec)
}

/// The `poststart` hooks.
fn run_hooks(entry: &Entry, sandbox: &SandboxRef, spec: &Spec) -> Result<(), StartError> {
    let kind = entry.record.isolation;
    let Some(of_spec) = spec.hooks() else { return Ok(()) };
    let state = entry.record.hook_view(Status::Running);
    let outcome = hooks::run_all("poststart", of_spec.poststart().as_ref(), &state);
    if outcome.is_err()
        && let Err(error) = sandbox::delete(kind, sandbox)
    {
        tracing::warn!("{}", with_causes(&error));
    }
    Ok(outcome?)
}
