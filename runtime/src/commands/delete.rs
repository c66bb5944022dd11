//! `delete`: takes away everything that `create` made.

use cofferdam_protocol::boot::ExitCause;
use cofferdam_protocol::id::ContainerId;

use crate::cli::DeleteArgs;
use crate::commands::creation::identity;
use crate::commands::run::read_exit_record;
use crate::commands::{Context, IdError, parse_id};
use crate::figures::{self, Counted, Ending};
use crate::host::hooks::{self, HookError};
use crate::host::log::with_causes;
use crate::kind::SandboxKind;
use crate::sandbox;
use crate::sandbox::microvm::POD_NOTE;
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
        kill_first(context, &id);
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

/// Kills what is to go before its lock is taken: whoever holds that may be waiting for a guest which
/// stalls it for longer than anybody waits for a lock, and has its answer then. What fails here is
/// the deletion's own to meet, and to report.
fn kill_first(context: &Context, id: &ContainerId) {
    let Ok(entry) = context.store.open(id) else { return };
    if entry.record.permit(Transition::ForceDelete).is_ok()
        && let Err(error) = sandbox::kill_at_once(entry.record.isolation, &entry.sandbox())
    {
        tracing::debug!("Not killed before its lock is taken: {}", with_causes(&error));
    }
}

/// Takes a container away that the caller has seen to be allowed to go.
pub(super) fn delete(entry: &Entry, lock: &Lock) -> Result<(), DeleteError> {
    take_away(entry, lock, false)
}

/// A hook that fails is a warning, as the specification has it; or, as runc has it, the last one
/// and an error. Nothing is left of the container either way.
fn take_away(entry: &Entry, lock: &Lock, hooks_must_not_fail: bool) -> Result<(), DeleteError> {
    sandbox::delete(entry.record.isolation, &entry.sandbox())?;
    note_end(entry);
    let hooks = run_hooks(entry, hooks_must_not_fail);
    entry.remove(lock)?;
    Ok(hooks?)
}

/// For the metrics. A pod's member ends in a microVM that does not.
fn note_end(entry: &Entry) {
    figures::gone(&identity(&entry.record));
    let is_member = entry.record.notes.contains_key(POD_NOTE);
    if entry.record.isolation == SandboxKind::Microvm && !is_member {
        let ending = match read_exit_record(entry).map(|record| record.cause) {
            Some(ExitCause::Exited) => Ending::Exited,
            Some(ExitCause::OutOfMemory) => Ending::OutOfMemory,
            Some(ExitCause::GuestLost(_)) => Ending::GuestLost,
            None => Ending::Killed,
        };
        figures::count(Counted::End(ending));
    }
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

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::thread;
    use std::time::{Duration, Instant};

    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb};
    use crate::host::process::ProcessIdentity;
    use crate::state::record::Record;
    use crate::state::record::tests::record;
    use crate::state::store::Store;

    /// A running microVM's record, whose monitor is only a process that waits.
    fn running() -> (Record, Child) {
        let monitor = Command::new("sleep").arg("100").spawn().unwrap();
        let process = ProcessIdentity::of(monitor.id().cast_signed()).ok();
        let (phase, isolation) = (Status::Running, SandboxKind::Microvm);
        (Record { phase, isolation, process, ..record("a") }, monitor)
    }

    fn delete(store: &Store, flags: &[&str]) -> Result<(), DeleteError> {
        let cli = Cli::parse_from([&["cofferdam", "delete"], flags, &["a"]].concat());
        let Verb::Delete(args) = &cli.verb else { panic!("{:?}", cli.verb) };
        run(&Context { global: cli.global, store: store.clone() }, args)
    }

    #[test]
    fn whoever_waits_for_a_guest_with_the_lock_does_not_hold_up_a_forced_deletion() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("root"));
        let (record, mut monitor) = running();
        let (entry, lock) = store.claim(record).unwrap();
        let begun = Instant::now();
        thread::scope(|scope| {
            // As `update` does when its guest does not answer.
            scope.spawn(move || {
                monitor.wait().unwrap();
                drop(lock);
            });
            delete(&store, &["--force"]).unwrap();
        });
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(matches!(store.open(&entry.record.id), Err(StoreError::NotFound)));
    }

    #[test]
    fn what_is_not_to_go_is_not_killed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("root"));
        let (record, mut monitor) = running();
        drop(store.claim(record).unwrap());
        assert!(matches!(delete(&store, &[]), Err(DeleteError::Alive { .. })));
        assert!(monitor.try_wait().unwrap().is_none());
        monitor.kill().unwrap();
        monitor.wait().unwrap();
    }
}
