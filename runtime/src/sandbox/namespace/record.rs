//! What `create` knows and later verbs need: a file in the state folder.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::confinement::Confinement;
use super::host_mounts::MountOn;
use super::process::SeccompFile;
use crate::cgroup::Groups;
use crate::host::document;
use crate::host::process::ProcessIdentity;

const FILE: &str = "namespace.json";

/// The record of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its first process.
    pub(super) init: Option<ProcessIdentity>,
    /// Who makes it, as long as there is none.
    #[serde(default)]
    pub(super) maker: Option<ProcessIdentity>,
    /// The file system and the number of the folder that is its root.
    pub(super) root: Option<(u64, u64)>,
    /// Its root on the host, where its mounts are the host's.
    #[serde(default)]
    pub(super) host_mount: Option<MountOn>,
    /// The folders of its control groups.
    pub(super) cgroups: Vec<PathBuf>,
    /// The unit of systemd's that they are, by the path that the configuration has for it.
    #[serde(default)]
    pub(super) unit: Option<PathBuf>,
    /// Its compiled filter, for the processes that join.
    pub(super) seccomp: Option<SeccompFile>,
    /// Whether its processes may gain no privileges, whoever asked for that.
    pub(super) no_new_privileges: bool,
    /// Whether a new process gets a session keyring of its own.
    pub(super) new_session_keyring: bool,
    /// What its configuration asked for, for `checkpoint`.
    #[serde(default)]
    pub(super) confinement: Option<Confinement>,
    /// Whether it was made with `--compat`.
    #[serde(default)]
    pub(super) compat: bool,
}

/// The container has no control group. Only that of a caller who is not root can be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "This takes a control group, and the container has none: its creator was no root. With cgroup v2, \
     start the runtime with `systemd-run --user --scope --property=Delegate=yes`"
)]
pub struct NoGroups;

impl Record {
    /// Its control groups, for a verb that is nothing without them.
    pub(super) fn groups(&self) -> Result<Groups<'_>, NoGroups> {
        if self.cgroups.is_empty() { Err(NoGroups) } else { Ok(Groups::new(&self.cgroups)) }
    }

    /// Writes it.
    pub(super) fn save(&self, state_folder: &Path) -> io::Result<()> {
        document::save(&state_folder.join(FILE), self)
    }

    /// Reads it, if `create` has come as far as writing it.
    pub(super) fn find(state_folder: &Path) -> io::Result<Option<Self>> {
        document::find(&state_folder.join(FILE))
    }

    /// Reads it.
    pub(super) fn load(state_folder: &Path) -> io::Result<Self> {
        document::load(&state_folder.join(FILE))
    }

    /// Removes it; it is no error when it is gone.
    pub(super) fn remove(state_folder: &Path) -> io::Result<()> {
        match std::fs::remove_file(state_folder.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}
