//! The freezer: all processes of a group stopped where they are, and set going again.
//!
//! ```text
//!              freeze                  all are stopped
//!   running ───────────▶ freezing ───────────────────────▶ frozen
//!      ▲                     │ not in time                    │ thaw
//!      └─────────────────────┴────────────────────────────────┘
//! ```

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::Groups;

/// A process in an uninterruptible wait is not frozen before the wait ends.
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);

/// v1: the state wanted and the state there is.
const V1_FILE: &str = "freezer.state";
/// v2: what is wanted, and what is.
const V2_FILE: &str = "cgroup.freeze";
const V2_EVENTS: &str = "cgroup.events";

/// Why processes were not frozen or not set going.
#[derive(Debug, thiserror::Error)]
pub enum FreezerError {
    /// No group has a freezer.
    #[error("The container's control groups have no freezer")]
    None,
    /// The kernel refused.
    #[error("Cannot use the freezer of the container's control group")]
    Io(#[source] io::Error),
    /// Some process does not stop.
    #[error("The container's processes do not freeze within {} s", FREEZE_DEADLINE.as_secs())]
    TooSlow,
}

/// Freezes every process of the groups and those below.
///
/// # Errors
/// When they do not freeze in time; then all are set going again.
pub fn freeze(groups: Groups<'_>) -> Result<(), FreezerError> {
    let deadline = Instant::now() + FREEZE_DEADLINE;
    loop {
        // Again and again: with v1 a process that is born meanwhile is overlooked otherwise.
        let frozen = ask(groups, true).and_then(|()| is_frozen(groups));
        match frozen {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() < deadline => thread::sleep(PAUSE),
            Ok(false) => {
                thaw(groups)?;
                return Err(FreezerError::TooSlow);
            }
            Err(error) => {
                // The error that matters is the first.
                let _ = thaw(groups);
                return Err(error);
            }
        }
    }
}

/// Sets them going.
///
/// # Errors
/// When the kernel refuses.
pub fn thaw(groups: Groups<'_>) -> Result<(), FreezerError> {
    ask(groups, false)
}

fn ask(groups: Groups<'_>, frozen: bool) -> Result<(), FreezerError> {
    let (v1, v2) = if frozen { ("FROZEN", "1") } else { ("THAWED", "0") };
    let asked = match groups.file(V1_FILE) {
        Some(file) => super::write(&file, v1),
        None => groups.write(V2_FILE, v2),
    };
    asked.map_err(failure)
}

fn is_frozen(groups: Groups<'_>) -> Result<bool, FreezerError> {
    match groups.read(V1_FILE) {
        Ok(state) => Ok(state.trim() == "FROZEN"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let events = groups.read(V2_EVENTS).map_err(failure)?;
            Ok(events.lines().any(|line| line == "frozen 1"))
        }
        Err(error) => Err(failure(error)),
    }
}

fn failure(error: io::Error) -> FreezerError {
    match error.kind() {
        io::ErrorKind::NotFound => FreezerError::None,
        _ => FreezerError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_version_is_told_in_its_own_words() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().join("cpu"), folder.path().join("own")];
        fs::create_dir(&folders[1]).unwrap();
        let groups = Groups::new(&folders);
        assert!(matches!(freeze(groups), Err(FreezerError::None)));

        let v2 = folders[1].join(V2_FILE);
        fs::write(&v2, "0").unwrap();
        fs::write(folders[1].join(V2_EVENTS), "populated 1\nfrozen 1\n").unwrap();
        freeze(groups).unwrap();
        assert_eq!(fs::read_to_string(&v2).unwrap(), "1");
        thaw(groups).unwrap();
        assert_eq!(fs::read_to_string(&v2).unwrap(), "0");

        let v1 = folders[1].join(V1_FILE);
        fs::write(&v1, "THAWED").unwrap();
        freeze(groups).unwrap();
        assert_eq!(fs::read_to_string(&v1).unwrap(), "FROZEN");
        thaw(groups).unwrap();
        assert_eq!(fs::read_to_string(&v1).unwrap(), "THAWED");
    }
}
