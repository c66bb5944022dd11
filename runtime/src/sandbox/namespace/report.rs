//! What comes back from a helper and from the process that it makes: one JSON value a line, on a
//! pipe.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sandbox::request::StartFailureKind;

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The process exists, prepared; for a new container it waits for `start`.
    Ready {
        /// Its number.
        pid: i32,
        /// The folders of the control groups that were made for it.
        cgroups: Vec<PathBuf>,
    },
    /// It could not be made.
    Failed {
        /// When the program itself is at fault.
        kind: Option<StartFailureKind>,
        /// Why, in words.
        message: String,
    },
    /// What `libcontainer` said on the way: its own errors leave out their causes.
    Log {
        /// One event.
        message: String,
    },
}

/// The writing side of the reports. Copies of it are in every process on the way to the
/// container's; all are closed when the program is executed.
pub(super) struct Reporter(File);

impl Reporter {
    /// Writes to this pipe.
    pub(super) fn new(pipe: OwnedFd) -> Self {
        Self(File::from(pipe))
    }

    /// Sends one report. A reader that is gone is no concern of the writer's.
    pub(super) fn send(&self, report: &Report) {
        if let Ok(mut line) = serde_json::to_vec(report) {
            line.push(b'\n');
            let _ = (&self.0).write_all(&line);
        }
    }

    /// The pipe, for a process that is executed.
    pub(super) fn into_descriptor(self) -> OwnedFd {
        self.0.into()
    }

    /// Another handle to the same pipe.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

/// An error and its causes in one line, for the way through a pipe.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
