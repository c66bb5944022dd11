//! What `create` and `restore` have made, taken back when a later step fails: processes, then control
//! groups, then files.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cgroup;
use super::children;
use super::host_mounts::MountOn;
use super::process::SECCOMP_FILE;
use super::record::Record;
use super::socket::START_SOCKET;
use crate::cgroup::host;
use crate::cgroup::systemd::Unit;

/// How long the parts of a container that could not be made may take to go away.
const UNDO_DEADLINE: Duration = Duration::from_secs(5);

/// Takes a half-made container back.
pub(super) struct Undo {
    state_folder: PathBuf,
    cgroups: Vec<PathBuf>,
    /// The unit of systemd's that they are, once they are.
    unit: Option<Unit>,
    children: HashSet<i32>,
    /// What the root is on before anything is mounted there, where that is the host's to see.
    below: Option<MountOn>,
    armed: bool,
}

impl Undo {
    pub(super) fn new(state_folder: &Path, cgroups: Vec<PathBuf>) -> Self {
        let children = children::own();
        let state_folder = state_folder.to_owned();
        Self { state_folder, cgroups, unit: None, children, below: None, armed: true }
    }

    /// The children that there were before.
    pub(super) const fn children(&self) -> &HashSet<i32> {
        &self.children
    }

    /// Its mounts will be the host's to see, on this one.
    pub(super) fn mounts_on(&mut self, below: MountOn) {
        self.below = Some(below);
    }

    /// There are groups now, and they are this unit.
    pub(super) fn made(&mut self, cgroups: &[PathBuf], unit: Option<&PathBuf>) {
        self.cgroups.extend_from_slice(cgroups);
        self.unit = unit.map(|path| Unit::known(path.clone(), ""));
    }

    /// It is made.
    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let deadline = Instant::now() + UNDO_DEADLINE;
        cgroup::kill_frozen(&self.cgroups);
        children::kill_new(&self.children, deadline);
        if let Some(unit) = &self.unit {
            unit.stop(&self.cgroups, deadline);
        }
        if let Err(error) = cgroup::destroy(&self.cgroups, deadline) {
            host::warn_of_left(&self.cgroups, &error);
        }
        if let Some(below) = &self.below {
            below.take_newer_away();
        }
        remove_files(&self.state_folder);
    }
}

/// Removes what `create` puts into a state folder.
pub(super) fn remove_files(state_folder: &Path) {
    for name in [SECCOMP_FILE, START_SOCKET, "notify.sock"] {
        // What is not there needs no removal, and the folder itself goes after this.
        let _ = fs::remove_file(state_folder.join(name));
    }
    let _ = Record::remove(state_folder);
}
