//! A sandbox: what a container runs in. Two kinds behind the same verbs, and the only place that
//! knows that there are two.
//!
//! ```text
//!            create                 start                 (init ends | kill)        delete
//!   (none) ─────────▶ Created ─────────────▶ Running ─────────────────────▶ Stopped ───────▶ (none)
//!                        │                                                     ▲
//!                        └──────────────────── kill ───────────────────────────┘
//! ```
//!
//! Which verb is allowed in which status is [`crate::state`]'s to say; what a verb does is each
//! kind's own: [`microvm`] (a monitor process with a guest kernel) and [`namespace`] (hardened
//! namespaces on `libcontainer`). There is no trait: the two are an enum, matched here.

pub mod microvm;
pub mod namespace;
pub mod request;
mod subgroup;

use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::cgroup::statistics::Statistics;
use crate::config::Config;
use crate::kind::SandboxKind;

use request::{
    Attachment, CreateRequest, Created, ExecRequest, ImageRequest, KillRequest, ProcessRow,
    SandboxRef, StartFailureKind, UpdateRequest, WatchOutcome,
};

/// Why a verb failed, by the kind of sandbox: each kind's own words.
macro_rules! error_of_either_kind {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, thiserror::Error)]
        pub enum $name {
            /// In a microVM.
            #[error(transparent)]
            Microvm(#[from] microvm::$name),
            /// In namespaces.
            #[error(transparent)]
            Namespace(#[from] namespace::$name),
        }
    };
}

error_of_either_kind!(
    /// Why no sandbox was made.
    CreateError
);
error_of_either_kind!(
    /// Why the container's program does not run.
    StartError
);
error_of_either_kind!(
    /// Why no further process runs.
    ExecError
);
error_of_either_kind!(
    /// Why a signal was not sent.
    KillError
);
error_of_either_kind!(
    /// Why a container's processes were not frozen, or not set going again.
    FreezeError
);
error_of_either_kind!(
    /// Why a container was not saved.
    CheckpointError
);
error_of_either_kind!(
    /// Why a container's limits are as they were.
    UpdateError
);
error_of_either_kind!(
    /// Why nothing is known of what a container uses.
    StatisticsError
);
error_of_either_kind!(
    /// Why the processes are not known.
    ProcessesError
);
error_of_either_kind!(
    /// What could not be taken away.
    DeleteError
);
error_of_either_kind!(
    /// Why the end of a process is not known.
    WaitError
);
error_of_either_kind!(
    /// Why a signal did not reach a process.
    SignalError
);
error_of_either_kind!(
    /// Why a terminal kept its size.
    ResizeError
);

impl CreateError {
    /// Whether it is the program's own fault.
    #[must_use]
    pub fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::Microvm(error) => error.start_failure(),
            Self::Namespace(error) => error.start_failure(),
        }
    }
}

impl StartError {
    /// Whether a `startContainer` hook failed, in namespaces.
    #[must_use]
    pub const fn is_of_hook(&self) -> bool {
        matches!(self, Self::Namespace(namespace::StartError::Hook(_)))
    }

    /// Whether it is the program's own fault.
    #[must_use]
    pub fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::Microvm(error) => error.start_failure(),
            Self::Namespace(error) => error.start_failure(),
        }
    }
}

impl ExecError {
    /// Whether it is the program's own fault.
    #[must_use]
    pub fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::Microvm(error) => error.start_failure(),
            Self::Namespace(error) => error.start_failure(),
        }
    }
}

/// Makes a sandbox with the container in it, not started.
///
/// # Errors
/// Nothing is left of it then.
pub fn create(
    kind: SandboxKind,
    request: CreateRequest,
    config: &Config,
) -> Result<Created, CreateError> {
    Ok(match kind {
        SandboxKind::Microvm => microvm::create(request, config)?,
        SandboxKind::Namespace => namespace::create(request, config)?,
    })
}

/// Lets the container's program run.
///
/// # Errors
/// When it cannot.
pub fn start(kind: SandboxKind, sandbox: &SandboxRef) -> Result<(), StartError> {
    match kind {
        SandboxKind::Microvm => microvm::start(sandbox).map_err(StartError::Microvm),
        SandboxKind::Namespace => namespace::start(sandbox).map_err(StartError::Namespace),
    }
}

/// Runs one more process in the container.
///
/// # Errors
/// When it cannot.
pub fn exec(
    kind: SandboxKind,
    request: ExecRequest,
    attachment: Attachment,
) -> Result<ExecStarted, ExecError> {
    Ok(match kind {
        SandboxKind::Microvm => ExecStarted::Microvm(microvm::exec(request, attachment)?),
        SandboxKind::Namespace => ExecStarted::Namespace(namespace::exec(request, attachment)?),
    })
}

/// Sends a signal.
///
/// # Errors
/// When it cannot be sent.
pub fn kill(
    kind: SandboxKind,
    sandbox: &SandboxRef,
    request: KillRequest,
) -> Result<(), KillError> {
    match kind {
        SandboxKind::Microvm => microvm::kill(sandbox, request).map_err(KillError::Microvm),
        SandboxKind::Namespace => namespace::kill(sandbox, request).map_err(KillError::Namespace),
    }
}

/// Kills a sandbox's process without asking anybody inside, and does not wait: whoever waits for
/// it waits no longer. What is left is for [`delete`].
///
/// # Errors
/// When it cannot be killed.
pub fn kill_at_once(kind: SandboxKind, sandbox: &SandboxRef) -> Result<(), KillError> {
    match kind {
        SandboxKind::Microvm => microvm::kill_at_once(sandbox).map_err(KillError::Microvm),
        SandboxKind::Namespace => namespace::kill_at_once(sandbox).map_err(KillError::Namespace),
    }
}

/// Freezes the container's processes.
///
/// # Errors
/// When they do not freeze in time. They all run then.
pub fn pause(kind: SandboxKind, sandbox: &SandboxRef) -> Result<(), FreezeError> {
    match kind {
        SandboxKind::Microvm => microvm::pause(sandbox).map_err(FreezeError::Microvm),
        SandboxKind::Namespace => namespace::pause(sandbox).map_err(FreezeError::Namespace),
    }
}

/// Sets them going again.
///
/// # Errors
/// When they cannot be reached.
pub fn resume(kind: SandboxKind, sandbox: &SandboxRef) -> Result<(), FreezeError> {
    match kind {
        SandboxKind::Microvm => microvm::resume(sandbox).map_err(FreezeError::Microvm),
        SandboxKind::Namespace => namespace::resume(sandbox).map_err(FreezeError::Namespace),
    }
}

/// Gives the container the interfaces that have come into its network namespace: in namespaces it
/// has them anyway.
///
/// # Errors
/// When one cannot be given.
pub fn follow_network(
    kind: SandboxKind,
    sandbox: &SandboxRef,
    restored: bool,
) -> Result<(), microvm::NetworkError> {
    match kind {
        SandboxKind::Microvm => microvm::follow_network(sandbox, restored),
        SandboxKind::Namespace => Ok(()),
    }
}

/// Leaves a process behind that follows the container's network, where it needs one for that.
///
/// # Errors
/// When there is none.
pub fn watch_network(
    kind: SandboxKind,
    sandbox: &SandboxRef,
    restored: bool,
) -> Result<(), microvm::NetworkError> {
    match kind {
        SandboxKind::Microvm => microvm::watch_network(sandbox, restored),
        SandboxKind::Namespace => Ok(()),
    }
}

/// Saves the container into an image. Without [`ImageRequest::leave_running`] it stands still
/// afterwards, to be deleted.
///
/// # Errors
/// Then it runs on.
pub fn checkpoint(
    kind: SandboxKind,
    sandbox: &SandboxRef,
    request: &ImageRequest,
) -> Result<(), CheckpointError> {
    match kind {
        SandboxKind::Microvm => microvm::checkpoint(sandbox, request)?,
        SandboxKind::Namespace => namespace::checkpoint(sandbox, request)?,
    }
    Ok(())
}

/// Changes the container's limits.
///
/// # Errors
/// Then they are as they were.
pub fn update(
    kind: SandboxKind,
    sandbox: &SandboxRef,
    request: &UpdateRequest,
) -> Result<(), UpdateError> {
    match kind {
        SandboxKind::Microvm => microvm::update(sandbox, request).map_err(UpdateError::Microvm),
        SandboxKind::Namespace => {
            namespace::update(sandbox, request).map_err(UpdateError::Namespace)
        }
    }
}

/// Begins to watch a container.
///
/// # Errors
/// When it does not run or cannot be reached.
pub fn watch(kind: SandboxKind, sandbox: &SandboxRef) -> Result<Watch, StatisticsError> {
    Ok(match kind {
        SandboxKind::Microvm => Watch::Microvm(microvm::watch(sandbox)?),
        SandboxKind::Namespace => Watch::Namespace(namespace::watch(sandbox)?),
    })
}

/// A container that is watched.
#[derive(Debug)]
pub enum Watch {
    /// In a microVM.
    Microvm(microvm::Watch),
    /// In namespaces.
    Namespace(namespace::Watch),
}

impl Watch {
    /// What the container's processes use now.
    ///
    /// # Errors
    /// When it is not known.
    pub fn statistics(&mut self) -> Result<Statistics, StatisticsError> {
        Ok(match self {
            Self::Microvm(watch) => watch.statistics()?,
            Self::Namespace(watch) => watch.statistics()?,
        })
    }

    /// Waits until something happens, at most this long.
    ///
    /// # Errors
    /// When nothing more can be seen.
    pub fn wait(&mut self, until: Instant) -> Result<WatchOutcome, StatisticsError> {
        Ok(match self {
            Self::Microvm(watch) => watch.wait(until)?,
            Self::Namespace(watch) => watch.wait(until)?,
        })
    }
}

/// The container's processes.
///
/// # Errors
/// When they cannot be had.
pub fn processes(
    kind: SandboxKind,
    sandbox: &SandboxRef,
) -> Result<Vec<ProcessRow>, ProcessesError> {
    Ok(match kind {
        SandboxKind::Microvm => microvm::processes(sandbox)?,
        SandboxKind::Namespace => namespace::processes(sandbox)?,
    })
}

/// Takes away whatever is left of a sandbox. As often as one likes.
///
/// # Errors
/// When something could not be taken away in time.
pub fn delete(kind: SandboxKind, sandbox: &SandboxRef) -> Result<(), DeleteError> {
    match kind {
        SandboxKind::Microvm => microvm::delete(sandbox).map_err(DeleteError::Microvm),
        SandboxKind::Namespace => namespace::delete(sandbox).map_err(DeleteError::Namespace),
    }
}

/// One more process, running.
#[derive(Debug)]
pub enum ExecStarted {
    /// In a microVM.
    Microvm(microvm::ExecStarted),
    /// In namespaces.
    Namespace(namespace::ExecStarted),
}

impl ExecStarted {
    /// For the pid file.
    #[must_use]
    pub fn pid(&self) -> i32 {
        match self {
            Self::Microvm(started) => started.pid(),
            Self::Namespace(started) => started.pid(),
        }
    }

    /// The master side of its terminal, when it was asked for. Once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        match self {
            Self::Microvm(started) => started.take_terminal(),
            Self::Namespace(started) => started.take_terminal(),
        }
    }

    /// Blocks until it has ended and its output is with the caller; its code as a shell has it.
    ///
    /// # Errors
    /// When its end cannot be known.
    pub fn wait(&self) -> Result<u8, WaitError> {
        Ok(match self {
            Self::Microvm(started) => started.wait()?,
            Self::Namespace(started) => started.wait()?,
        })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn signal(&self, signal: i32) -> Result<(), SignalError> {
        match self {
            Self::Microvm(started) => started.signal(signal).map_err(SignalError::Microvm),
            Self::Namespace(started) => started.signal(signal).map_err(SignalError::Namespace),
        }
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// When it has none.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), ResizeError> {
        match self {
            Self::Microvm(started) => started.resize(rows, columns).map_err(ResizeError::Microvm),
            Self::Namespace(started) => {
                started.resize(rows, columns).map_err(ResizeError::Namespace)
            }
        }
    }
}
