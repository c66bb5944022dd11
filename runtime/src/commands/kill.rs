//! `kill`: a signal for a container.

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use crate::cli::KillArgs;
use crate::commands::{Context, IdError, parse_id};
use crate::host::signals::{UnknownSignal, parse_signal};
use crate::kind::SandboxKind;
use crate::sandbox;
use crate::sandbox::request::KillRequest;
use crate::state::status::{Refusal, Transition};
use crate::state::store::{Entry, StoreError};

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
    let signal = parse_signal(&args.signal)?;
    let left = signal == libc::SIGKILL && outlive_the_first(&entry);
    let request = KillRequest { signal, all: args.all || left };
    match entry.record.permit(Transition::Kill) {
        Err(Refusal::NotRunning) if left => {}
        // As runc has it: of a container that ended, all processes were signalled.
        Err(Refusal::NotRunning) if args.all => return Ok(()),
        other => drop(other?),
    }
    // It is there: that was the question.
    if request.signal == 0 {
        return Ok(());
    }
    Ok(sandbox::kill(entry.record.isolation, &entry.sandbox(), request)?)
}

/// Whether a container's processes live on when its first has ended: without a pid namespace of
/// their own. What cannot be read says nothing: then the first alone is killed.
fn outlive_the_first(entry: &Entry) -> bool {
    let Ok(spec) = entry.sandbox().spec() else { return false };
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let own = |namespace: &LinuxNamespace| {
        namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none()
    };
    entry.record.isolation == SandboxKind::Namespace && !namespaces.into_iter().flatten().any(own)
}
