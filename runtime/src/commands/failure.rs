//! Which failure of which verb a metric counts: from the error's type, never from its text.

use crate::cli::Verb;
use crate::commands::CommandError;
use crate::commands::checkpoint::CheckpointError;
use crate::commands::creation::CreationError;
use crate::commands::delete::DeleteError;
use crate::commands::exec::ExecError;
use crate::commands::kill::KillError;
use crate::commands::pause::PauseError;
use crate::commands::pod::PodError;
use crate::commands::run::RunError;
use crate::commands::start::StartError;
use crate::commands::update::UpdateError;
use crate::figures::{FailedVerb, FailureReason as Reason};
use crate::sandbox;
use crate::sandbox::{microvm, namespace};
use crate::state::store::StoreError;

/// The verb, if its failures are counted: those that change a container.
pub(super) fn verb(verb: &Verb) -> Option<FailedVerb> {
    Some(match verb {
        Verb::Create(_) => FailedVerb::Create,
        Verb::Start(_) => FailedVerb::Start,
        Verb::Run(_) => FailedVerb::Run,
        Verb::Exec(_) => FailedVerb::Exec,
        Verb::Kill(_) => FailedVerb::Kill,
        Verb::Delete(_) => FailedVerb::Delete,
        Verb::Pause(_) | Verb::Resume(_) => FailedVerb::Freeze,
        Verb::Checkpoint(_) => FailedVerb::Checkpoint,
        Verb::Restore(_) => FailedVerb::Restore,
        Verb::Update(_) => FailedVerb::Update,
        _ => return None,
    })
}

/// The reason.
pub(super) fn reason(error: &CommandError) -> Reason {
    match error {
        CommandError::Create(error) => of_creation(error),
        CommandError::Start(error) => of_start(error),
        CommandError::Run(error) => of_run(error),
        CommandError::Exec(error) => of_exec(error),
        CommandError::Kill(error) => match error {
            KillError::Id(_) | KillError::Signal(_) => Reason::Usage,
            KillError::Store(error) => of_store(error),
            KillError::Refused(_) => Reason::Status,
            KillError::Sandbox(_) => Reason::Sandbox,
        },
        CommandError::Pause(error) => match error {
            PauseError::Id(_) => Reason::Usage,
            PauseError::Store(error) => of_store(error),
            PauseError::Refused(_) => Reason::Status,
            PauseError::Sandbox(_) => Reason::Sandbox,
        },
        CommandError::Checkpoint(error) => match error {
            CheckpointError::Id(_) | CheckpointError::Folder(_) => Reason::Usage,
            CheckpointError::Store(error) => of_store(error),
            CheckpointError::Refused(_) => Reason::Status,
            CheckpointError::Sandbox(_) => Reason::Sandbox,
            CheckpointError::Delete(error) => of_delete(error),
        },
        CommandError::Update(error) => match error {
            UpdateError::Store(error) => of_store(error),
            UpdateError::Refused(_) => Reason::Status,
            UpdateError::Sandbox(_) => Reason::Sandbox,
            _ => Reason::Usage,
        },
        CommandError::Delete(error) => of_delete(error),
        CommandError::Config(_) => Reason::Usage,
        CommandError::Place(_) => Reason::State,
        _ => Reason::Host,
    }
}

fn of_creation(error: &CreationError) -> Reason {
    match error {
        CreationError::Id(_) | CreationError::Config(_) | CreationError::Console(_) => {
            Reason::Usage
        }
        CreationError::Bundle { .. } => Reason::Bundle,
        CreationError::Spec(_) | CreationError::Invalid(_) => Reason::Spec,
        CreationError::Rootfs(_) => Reason::Bundle,
        CreationError::Isolation(_) => Reason::Isolation,
        CreationError::Pod(PodError::Isolation(_)) => Reason::Isolation,
        CreationError::Pod(_) => Reason::Pod,
        CreationError::Store(error) => of_store(error),
        CreationError::Sandbox(error) => of_sandbox(error),
        CreationError::Hook(_) => Reason::Hook,
        CreationError::Network(_) => Reason::Network,
        CreationError::HandOver(_) => Reason::Terminal,
        CreationError::Interrupted(_) => Reason::Interrupted,
        CreationError::Host { .. } => Reason::Host,
    }
}

fn of_sandbox(error: &sandbox::CreateError) -> Reason {
    if error.start_failure().is_some() {
        return Reason::Program;
    }
    match error {
        sandbox::CreateError::Microvm(error) => of_microvm(error),
        sandbox::CreateError::Namespace(error) => match error {
            namespace::CreateError::Unsupported(_) | namespace::CreateError::OverProc(_) => {
                Reason::Spec
            }
            namespace::CreateError::CgroupInUse(_)
            | namespace::CreateError::CgroupFrozen(_)
            | namespace::CreateError::CgroupPath(_)
            | namespace::CreateError::Group(_) => Reason::Cgroup,
            _ => Reason::Sandbox,
        },
    }
}

fn of_microvm(error: &microvm::CreateError) -> Reason {
    match error {
        microvm::CreateError::Plan(_) | microvm::CreateError::PreserveFds => Reason::Spec,
        microvm::CreateError::Artifacts(_) | microvm::CreateError::Kvm(_) => Reason::Machine,
        microvm::CreateError::Monitor(microvm::MonitorError::Interrupted(_)) => Reason::Interrupted,
        microvm::CreateError::Monitor(_) => Reason::Boot,
        microvm::CreateError::Agent(_) => Reason::Guest,
        microvm::CreateError::Group(_) => Reason::Cgroup,
        microvm::CreateError::Network(_) => Reason::Network,
        microvm::CreateError::Pod(_) => Reason::Pod,
        microvm::CreateError::Stdio(_) => Reason::Terminal,
        _ => Reason::Sandbox,
    }
}

fn of_start(error: &StartError) -> Reason {
    if error.start_failure().is_some() {
        return Reason::Program;
    }
    match error {
        StartError::Id(_) => Reason::Usage,
        StartError::Store(error) => of_store(error),
        StartError::Refused(_) => Reason::Status,
        StartError::Spec(_) => Reason::Spec,
        StartError::Hook(_) => Reason::Hook,
        StartError::Sandbox(error) if error.is_of_hook() => Reason::Hook,
        StartError::Sandbox(sandbox::StartError::Microvm(_)) => Reason::Guest,
        StartError::Sandbox(sandbox::StartError::Namespace(_)) => Reason::Sandbox,
    }
}

fn of_run(error: &RunError) -> Reason {
    match error {
        RunError::Start(error) => of_start(error),
        RunError::Resume(_) => Reason::Sandbox,
        RunError::Network(_) => Reason::Network,
        RunError::Store(error) => of_store(error),
        RunError::Interrupted(_) => Reason::Interrupted,
        RunError::Host { .. } => Reason::Host,
    }
}

fn of_exec(error: &ExecError) -> Reason {
    if error.start_failure().is_some() {
        return Reason::Program;
    }
    match error {
        ExecError::Store(error) => of_store(error),
        ExecError::Refused(_) => Reason::Status,
        ExecError::Spec(_) | ExecError::Invalid(_) => Reason::Spec,
        ExecError::Sandbox(sandbox::ExecError::Microvm(_)) => Reason::Guest,
        ExecError::Sandbox(sandbox::ExecError::Namespace(_)) => Reason::Sandbox,
        ExecError::HandOver(_) => Reason::Terminal,
        ExecError::Wait(_) => Reason::Sandbox,
        ExecError::Host { .. } => Reason::Host,
        _ => Reason::Usage,
    }
}

fn of_delete(error: &DeleteError) -> Reason {
    match error {
        DeleteError::Id(_) => Reason::Usage,
        DeleteError::Store(error) => of_store(error),
        DeleteError::Alive { .. } | DeleteError::Refused(_) => Reason::Status,
        DeleteError::Sandbox(_) => Reason::Sandbox,
        DeleteError::Hook(_) => Reason::Hook,
    }
}

fn of_store(error: &StoreError) -> Reason {
    match error {
        StoreError::NotFound | StoreError::Exists => Reason::Container,
        StoreError::Busy(_) => Reason::Busy,
        StoreError::Io { .. } | StoreError::Damaged { .. } => Reason::State,
    }
}
