//! The life of a container, and which verb is allowed when.
//!
//! ```text
//!             create            start               its process ends
//!    Creating ──────▶ Created ────────▶ Running ─────────────────────▶ Stopped
//!        │             │ ▲ │             │ ▲                              ▲
//!        │       pause ▼ │ │       pause ▼ │ resume                       │
//!        │             Paused            Paused                           │
//!        │                 └──── kill, delete (paused ones too) ──────────┤
//!        └────────────────── the creating process died ───────────────────┘
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a container is in its life. The names are the OCI runtime specification's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` is at work.
    Creating,
    /// Everything is there but the program does not run yet.
    Created,
    /// The program runs.
    Running,
    /// Its processes are frozen, be it before `start` or after.
    Paused,
    /// Its process ended, or its creation was cut.
    Stopped,
}

impl Status {
    /// Every status, in the order of a life.
    pub const ALL: [Self; 5] =
        [Self::Creating, Self::Created, Self::Running, Self::Paused, Self::Stopped];
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// What a verb wants to do with a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transition {
    /// The last step of `create`.
    FinishCreation,
    /// `start`.
    Start,
    /// `exec`.
    Exec,
    /// `exec --ignore-paused`.
    ExecWhenResumed,
    /// `pause`.
    Pause,
    /// `resume`.
    Resume,
    /// `update`.
    Update,
    /// `checkpoint`.
    Checkpoint,
    /// `kill`.
    Kill,
    /// `delete`.
    Delete,
    /// `delete --force`.
    ForceDelete,
}

impl Transition {
    /// Every transition.
    pub const ALL: [Self; 11] = [
        Self::FinishCreation,
        Self::Start,
        Self::Exec,
        Self::ExecWhenResumed,
        Self::Pause,
        Self::Resume,
        Self::Update,
        Self::Checkpoint,
        Self::Kill,
        Self::Delete,
        Self::ForceDelete,
    ];
}

/// Why a verb is refused. The words are runc's: engines look for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `start` of one that runs.
    #[error("cannot start an already running container")]
    StartRunning,
    /// `start` of one that ended.
    #[error("cannot start a container that has stopped")]
    StartStopped,
    /// `start` of one that is frozen.
    #[error("cannot start a container in the paused state")]
    StartPaused,
    /// Anything while it is being made.
    #[error("container is still being created")]
    BeingCreated,
    /// `exec` in one that ended.
    #[error("cannot exec in a stopped container")]
    ExecStopped,
    /// `exec` in one that is frozen.
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    ExecPaused,
    /// `kill`, `pause` or `update` of one without a process that runs.
    #[error("container not running")]
    NotRunning,
    /// `checkpoint` of one without a program that runs. The words are runc's, but for its capital.
    #[error("container cannot be checkpointed in {0} state")]
    CheckpointIdle(Status),
    /// `resume` of one that is not frozen.
    #[error("container not paused")]
    NotPaused,
    /// `delete` without force of one that is alive.
    #[error("cannot delete container that is not stopped: {0}")]
    DeleteAlive(Status),
    /// A creation that was finished before.
    #[error("container was created before")]
    CreatedBefore,
}

impl Status {
    /// The status after a transition: what is allowed when. A killed or deleted container is
    /// `Stopped` once its process is gone; a resumed one is where it was when it was paused.
    ///
    /// # Errors
    /// When the transition is not allowed here.
    pub const fn after(self, transition: Transition) -> Result<Self, Refusal> {
        use {Status as S, Transition as T};
        match (self, transition) {
            (S::Creating, T::FinishCreation) => Ok(S::Created),
            (S::Created | S::Running | S::Paused | S::Stopped, T::FinishCreation) => {
                Err(Refusal::CreatedBefore)
            }

            (S::Created, T::Start) => Ok(S::Running),
            (S::Running, T::Start) => Err(Refusal::StartRunning),
            (S::Paused, T::Start) => Err(Refusal::StartPaused),
            (S::Stopped, T::Start) => Err(Refusal::StartStopped),

            (S::Created | S::Running, T::Exec | T::ExecWhenResumed)
            | (S::Paused, T::ExecWhenResumed)
            | (S::Created | S::Running | S::Paused, T::Update) => Ok(self),
            (S::Paused, T::Exec) => Err(Refusal::ExecPaused),
            (S::Stopped, T::Exec | T::ExecWhenResumed) => Err(Refusal::ExecStopped),

            (S::Created | S::Running, T::Pause) => Ok(S::Paused),
            (S::Paused, T::Resume) => Ok(S::Running),
            (S::Created | S::Running | S::Stopped, T::Resume) => Err(Refusal::NotPaused),

            (S::Running | S::Paused, T::Checkpoint) => Ok(self),
            (S::Created | S::Stopped, T::Checkpoint) => Err(Refusal::CheckpointIdle(self)),

            (S::Created | S::Running | S::Paused, T::Kill) => Ok(S::Stopped),
            (S::Paused | S::Stopped, T::Pause)
            | (S::Stopped, T::Update)
            | (S::Creating | S::Stopped, T::Kill) => Err(Refusal::NotRunning),

            (S::Created | S::Stopped, T::Delete) => Ok(S::Stopped),
            (S::Creating | S::Running | S::Paused, T::Delete) => Err(Refusal::DeleteAlive(self)),

            (S::Created | S::Running | S::Paused | S::Stopped, T::ForceDelete) => Ok(S::Stopped),

            (
                S::Creating,
                T::Start
                | T::Exec
                | T::ExecWhenResumed
                | T::Pause
                | T::Resume
                | T::Update
                | T::Checkpoint
                | T::ForceDelete,
            ) => Err(Refusal::BeingCreated),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_whole_table() {
        let mut table = String::new();
        for status in Status::ALL {
            for transition in Transition::ALL {
                let cell = match status.after(transition) {
                    Ok(next) => format!("→ {next}"),
                    Err(refusal) => format!("✗ {refusal}"),
                };
                writeln!(table, "{status:<9}{:<16}{cell}", format!("{transition:?}")).unwrap();
            }
        }
        insta::assert_snapshot!(table, @r"
        creating FinishCreation  → created
        creating Start           ✗ container is still being created
        creating Exec            ✗ container is still being created
        creating ExecWhenResumed ✗ container is still being created
        creating Pause           ✗ container is still being created
        creating Resume          ✗ container is still being created
        creating Update          ✗ container is still being created
        creating Checkpoint      ✗ container is still being created
        creating Kill            ✗ container not running
        creating Delete          ✗ cannot delete container that is not stopped: creating
        creating ForceDelete     ✗ container is still being created
        created  FinishCreation  ✗ container was created before
        created  Start           → running
        created  Exec            → created
        created  ExecWhenResumed → created
        created  Pause           → paused
        created  Resume          ✗ container not paused
        created  Update          → created
        created  Checkpoint      ✗ container cannot be checkpointed in created state
        created  Kill            → stopped
        created  Delete          → stopped
        created  ForceDelete     → stopped
        running  FinishCreation  ✗ container was created before
        running  Start           ✗ cannot start an already running container
        running  Exec            → running
        running  ExecWhenResumed → running
        running  Pause           → paused
        running  Resume          ✗ container not paused
        running  Update          → running
        running  Checkpoint      → running
        running  Kill            → stopped
        running  Delete          ✗ cannot delete container that is not stopped: running
        running  ForceDelete     → stopped
        paused   FinishCreation  ✗ container was created before
        paused   Start           ✗ cannot start a container in the paused state
        paused   Exec            ✗ cannot exec in a paused container (use --ignore-paused to override)
        paused   ExecWhenResumed → paused
        paused   Pause           ✗ container not running
        paused   Resume          → running
        paused   Update          → paused
        paused   Checkpoint      → paused
        paused   Kill            → stopped
        paused   Delete          ✗ cannot delete container that is not stopped: paused
        paused   ForceDelete     → stopped
        stopped  FinishCreation  ✗ container was created before
        stopped  Start           ✗ cannot start a container that has stopped
        stopped  Exec            ✗ cannot exec in a stopped container
        stopped  ExecWhenResumed ✗ cannot exec in a stopped container
        stopped  Pause           ✗ container not running
        stopped  Resume          ✗ container not paused
        stopped  Update          ✗ container not running
        stopped  Checkpoint      ✗ container cannot be checkpointed in stopped state
        stopped  Kill            ✗ container not running
        stopped  Delete          → stopped
        stopped  ForceDelete     → stopped
        ");
    }
}
