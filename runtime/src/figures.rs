//! What the runtime's short-lived commands leave of what they did, for the node's metrics: how long
//! the phases of a start took, what failed and why, and which containers came back.
//!
//! ```text
//!  a command ──note──▶ the node's file (one for each user; fixed size) ◀──read── `cofferdam metrics`
//! ```
//!
//! What this is not: no log, and nothing that a command depends on. A file that cannot be had or is
//! held by a process that stands still costs the command its figures and no more.
//!
//! No word of a tenant's or a guest's gets here: what is counted is named by the enums of [`series`],
//! and of a container there is a hash.

mod file;
mod layout;
mod series;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::user::User;
use crate::kind::SandboxKind;
use crate::places::{Places, is_private};

pub use file::{FigureError, Figures};
pub use layout::{BUCKET_BOUNDS_US, BUCKETS, Counts, Distribution};
pub use series::{
    AgentMethod, Counted, Ending, FailedVerb, FailureReason, KINDS, NetworkOutcome, Phase, Timed,
};

/// Notes how long something took.
pub fn time(timed: Timed, took: Duration) {
    note(|figures| figures.observe(timed, took));
}

/// Notes how long several things took, as one.
pub fn time_all(all: &[(Timed, Duration)]) {
    note(|figures| all.iter().try_for_each(|(timed, took)| figures.observe(*timed, *took)));
}

/// Counts something.
pub fn count(counted: Counted) {
    note(|figures| figures.count(counted));
}

/// A container was deleted: one of the same identity that is made later is a restart.
pub fn gone(identity: &str) {
    note(|figures| figures.remember(identity));
}

/// A container was made: counts a restart, if it was there before.
pub fn made(identity: &str, kind: SandboxKind) {
    note(|figures| {
        if figures.recall(identity)? {
            figures.count(Counted::Restart(kind))?;
        }
        Ok(())
    });
}

/// What is noted so far; nothing where no command has noted anything.
///
/// # Errors
/// When the file cannot be read.
pub fn read() -> Result<Counts, FigureError> {
    Places::current().figures.map_or(Ok(Counts::default()), |path| Figures::read(&path))
}

fn note(write: impl FnOnce(&Figures) -> Result<(), FigureError>) {
    let Some(path) = path() else { return };
    if let Err(error) = Figures::open(&path).and_then(|figures| write(&figures)) {
        tracing::debug!("Not counted in {}: {error}", path.display());
    }
}

/// The file's path, with its folder made.
fn path() -> Option<PathBuf> {
    let path = Places::current().figures?;
    let folder = path.parent()?;
    if !is_private(folder) {
        make(folder).ok()?;
    }
    is_private(folder).then_some(path)
}

fn make(folder: &Path) -> io::Result<()> {
    // Sticky as the state's folder, which it is as well where the session has it.
    let mode = if User::current().is_rootless() { 0o1700 } else { 0o711 };
    match DirBuilder::new().mode(mode).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
