//! `kill`: a signal for a container.

use crate::cli::KillArgs;
use crate::commands::{Context, IdError, parse_id};
use crate::host::signals::{UnknownSignal, parse_signal};
use crate::sandbox;
use crate::sandbox::request::KillRequest;
use crate::state::status::{Refusal, Transition};
use crate::state::store::StoreError;

/// Why no signal was sent.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// The id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The signal.
    #[error(transparent)]
    Signal(#[from] UnknownSignal),
    /// The state folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] sandbox::KillError),
}

/// Takes no lock: a signal must reach a container whatever another verb waits for.
pub(super) fn run(context: &Context, args: &KillArgs) -> Result<(), KillError> {
    let entry = context.store.open(&parse_id(&args.target.id)?)?;
    let request = KillRequest { signal: parse_signal(&args.signal)?, all: args.all };
    match entry.record.permit(Transition::Kill) {
        // As runc has it: of a container that ended, all processes were signalled.
        Err(Refusal::NotRunning) if args.all => return Ok(()),
        other => other?,
    };
    // It is there: that was the question.
    if request.signal == 0 {
        return Ok(());
    }
    Ok(sandbox::kill(entry.record.isolation, &entry.sandbox(), request)?)
}
