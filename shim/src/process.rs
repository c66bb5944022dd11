//! One process of a container: its first, or one of `exec`.
//!
//! ```text
//!   added ──▶ created ──▶ running ──▶ stopped
//!     │          └─────────────────────▲
//!     └── an exec is not made before it is started
//! ```

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::logger::Logger;
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

    /// Its number, while it runs.
    pub(crate) fn running(self) -> Option<u32> {
        match self {
            Self::Running(pid) => Some(pid.cast_unsigned()),
            Self::Added | Self::Created(_) | Self::Stopped(..) => None,
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
    streams: Mutex<Connected>,
}

/// A process's streams, from when it is made until it has ended.
#[derive(Debug, Default)]
struct Connected {
    streams: Option<Streams>,
    /// Who logged a process that has ended.
    loggers: Vec<Logger>,
    /// An engine may close the input of a process that is not made yet.
    input_is_closed: bool,
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

    /// It is made, and has these.
    pub(crate) fn connect(&self, mut streams: Streams) {
        let mut connected = self.connected();
        if connected.input_is_closed {
            streams.close_input();
        }
        connected.streams = Some(streams);
    }

    /// No input any more.
    pub(crate) fn close_input(&self) {
        let mut connected = self.connected();
        connected.input_is_closed = true;
        if let Some(streams) = &mut connected.streams {
            streams.close_input();
        }
    }

    /// The size of its terminal, if it has one.
    ///
    /// # Errors
    /// The terminal refuses.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let connected = self.connected();
        connected.streams.as_ref().map_or(Ok(()), |streams| streams.resize(columns, rows))
    }

    /// It has ended: its streams, to be finished.
    pub(crate) fn disconnect(&self) -> Option<Streams> {
        self.connected().streams.take()
    }

    /// Its streams are finished but for these.
    pub(crate) fn leave(&self, loggers: Vec<Logger>) {
        self.connected().loggers = loggers;
    }

    /// Waits until everything that it wrote is logged, or ends those who do not come to an end.
    pub(crate) async fn is_logged(&self) {
        let loggers = std::mem::take(&mut self.connected().loggers);
        for logger in loggers {
            logger.end().await;
        }
    }

    fn connected(&self) -> MutexGuard<'_, Connected> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::reaper::CHILDREN_OF_TESTS;

    #[tokio::test]
    async fn input_that_is_closed_before_there_is_a_process_ends_at_once() {
        let _alone = CHILDREN_OF_TESTS.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("in");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let names = Names { stdin: fifo.to_str().unwrap().to_owned(), ..Names::default() };
        let process = Process::new("exec".to_owned(), names);
        process.close_input();
        let (child, streams) = process.names.open(folder.path()).await.unwrap();
        // Somebody holds the other end: it is no end of file.
        let _writer = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
        process.connect(streams);
        let cat = std::process::Command::new("cat").stdin(child.stdin).output().unwrap();
        assert!(cat.status.success());
    }

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
