//! One process of a container: its first, or one of `exec`.
//!
//! ```text
//!   added ──▶ created ──▶ running ──▶ stopped
//!     │          └─────────────────────▲
//!     └── an exec is not made before it is started
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::reaper::Exit;
use crate::stdio::{Names, Streams};

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is known.
    Added,
    /// It waits for its start.
    Created(i32),
    /// It runs.
    Running(i32),
    /// It has ended.
    Stopped(i32, Exit),
}

impl State {
    /// Its number, once it has one.
    pub(crate) fn pid(self) -> u32 {
        match self {
            Self::Added => 0,
            Self::Created(pid) | Self::Running(pid) | Self::Stopped(pid, _) => pid.cast_unsigned(),
        }
    }

    /// How it ended.
    pub(crate) fn exit(self) -> Option<Exit> {
        match self {
            Self::Stopped(_, exit) => Some(exit),
            _ => None,
        }
    }
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    /// The name of an exec; empty: the container's first.
    pub(crate) exec_id: String,
    /// What containerd calls its streams.
    pub(crate) names: Names,
    /// Held from before its start to after the start's event: its exit's event comes later.
    pub(crate) starting: tokio::sync::Mutex<()>,
    state: watch::Sender<State>,
    streams: Mutex<Option<Streams>>,
}

impl Process {
    /// One that is known.
    pub(crate) fn new(exec_id: String, names: Names) -> Self {
        Self {
            exec_id,
            names,
            starting: tokio::sync::Mutex::default(),
            state: watch::Sender::new(State::Added),
            streams: Mutex::default(),
        }
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> State {
        *self.state.borrow()
    }

    /// It goes on, unless it has ended already.
    pub(crate) fn set(&self, state: State) {
        self.state.send_if_modified(|now| {
            let goes_on = now.exit().is_none();
            if goes_on {
                *now = state;
            }
            goes_on
        });
    }

    /// Waits for its end.
    pub(crate) async fn exit(&self) -> Exit {
        let mut states = self.state.subscribe();
        loop {
            if let Some(exit) = states.borrow_and_update().exit() {
                return exit;
            }
            // The sender is this process's own: it is there.
            let _ = states.changed().await;
        }
    }

    /// Its streams, from when it is made.
    pub(crate) fn streams(&self) -> MutexGuard<'_, Option<Streams>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[tokio::test]
    async fn who_has_ended_does_not_run_again_and_everyone_who_waits_is_told() {
        let process = Process::new(String::new(), Names::default());
        assert_eq!(process.state().pid(), 0);
        process.set(State::Created(7));
        let exit = Exit { code: 3, at: SystemTime::now() };
        let (first, second, ()) = tokio::join!(process.exit(), process.exit(), async {
            process.set(State::Stopped(7, exit));
        });
        assert_eq!((first, second), (exit, exit));
        process.set(State::Running(7));
        assert_eq!(process.state(), State::Stopped(7, exit));
    }
}
