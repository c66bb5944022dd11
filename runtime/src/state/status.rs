//! The life of a container, and which verb is allowed when.
//!
//! ```text
//!             create            start               its process ends
//!    Creating ──────▶ Created ────────▶ Running ─────────────────────▶ Stopped
//!        │               └──────────────── kill, delete ──────────────────▲
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
    /// Its process ended, or its creation was cut.
    Stopped,
}

impl Status {
    /// Every status, in the order of a life.
    pub const ALL: [Self; 4] = [Self::Creating, Self::Created, Self::Running, Self::Stopped];
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
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
    /// `kill`.
    Kill,
    /// `delete`.
    Delete,
    /// `delete --force`.
    ForceDelete,
}

impl Transition {
    /// Every transition.
    pub const ALL: [Self; 6] = [
        Self::FinishCreation,
        Self::Start,
        Self::Exec,
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
    /// `start` or `exec` while it is being made.
    #[error("container is still being created")]
    BeingCreated,
    /// `exec` in one that ended.
    #[error("cannot exec in a stopped container")]
    ExecStopped,
    /// `kill` of one without a process.
    #[error("container not running")]
    KillNotRunning,
    /// `delete` without force of one that is alive.
    #[error("cannot delete container that is not stopped: {0}")]
    DeleteAlive(Status),
    /// A creation that was finished before.
    #[error("container was created before")]
    CreatedBefore,
}

impl Status {
    /// The status after a transition: what is allowed when. A killed or deleted container is
    /// `Stopped` once its process is gone.
    ///
    /// # Errors
    /// When the transition is not allowed here.
    pub const fn after(self, transition: Transition) -> Result<Self, Refusal> {
        use {Status as S, Transition as T};
        match (self, transition) {
            (S::Creating, T::FinishCreation) => Ok(S::Created),
            (S::Created | S::Running | S::Stopped, T::FinishCreation) => {
                Err(Refusal::CreatedBefore)
            }

            (S::Created, T::Start) => Ok(S::Running),
            (S::Creating, T::Start | T::Exec) => Err(Refusal::BeingCreated),
            (S::Running, T::Start) => Err(Refusal::StartRunning),
            (S::Stopped, T::Start) => Err(Refusal::StartStopped),

            (S::Created, T::Exec) => Ok(S::Created),
            (S::Running, T::Exec) => Ok(S::Running),
            (S::Stopped, T::Exec) => Err(Refusal::ExecStopped),

            (S::Created | S::Running, T::Kill) => Ok(S::Stopped),
            (S::Creating | S::Stopped, T::Kill) => Err(Refusal::KillNotRunning),

            (S::Created | S::Stopped, T::Delete) => Ok(S::Stopped),
            (S::Creating | S::Running, T::Delete) => Err(Refusal::DeleteAlive(self)),

            (S::Creating, T::ForceDelete) => Err(Refusal::BeingCreated),
            (S::Created | S::Running | S::Stopped, T::ForceDelete) => Ok(S::Stopped),
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
                writeln!(table, "{status:<9}{:<15}{cell}", format!("{transition:?}")).unwrap();
            }
        }
        insta::assert_snapshot!(table, @r"
        creating FinishCreation → created
        creating Start          ✗ container is still being created
        creating Exec           ✗ container is still being created
        creating Kill           ✗ container not running
        creating Delete         ✗ cannot delete container that is not stopped: creating
        creating ForceDelete    ✗ container is still being created
        created  FinishCreation ✗ container was created before
        created  Start          → running
        created  Exec           → created
        created  Kill           → stopped
        created  Delete         → stopped
        created  ForceDelete    → stopped
        running  FinishCreation ✗ container was created before
        running  Start          ✗ cannot start an already running container
        running  Exec           → running
        running  Kill           → stopped
        running  Delete         ✗ cannot delete container that is not stopped: running
        running  ForceDelete    → stopped
        stopped  FinishCreation ✗ container was created before
        stopped  Start          ✗ cannot start a container that has stopped
        stopped  Exec           ✗ cannot exec in a stopped container
        stopped  Kill           ✗ container not running
        stopped  Delete         → stopped
        stopped  ForceDelete    → stopped
        ");
    }
}
