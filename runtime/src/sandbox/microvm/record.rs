//! What `create` knows of a microVM and later verbs need: a file in the state folder.

use std::io;
use std::path::{Path, PathBuf};

use cofferdam_protocol::plan::StdioPlan;
use serde::{Deserialize, Serialize};

use super::group::GroupRef;
use crate::host::document;
use crate::plan::RunningVm;

const FILE: &str = "microvm.json";

/// The record of a microVM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The machine.
    pub(super) vm: RunningVm,
    /// The folders of its control group on the host.
    pub(super) cgroups: Vec<PathBuf>,
    /// The unit of systemd's that they are, by the path that the configuration has for it.
    #[serde(default)]
    pub(super) unit: Option<PathBuf>,
    /// How soon the host's kernel ends the monitor for want of memory, as far as the container that the
    /// machine was made for says. Absent in records of versions that left it as it was inherited.
    #[serde(default)]
    pub(super) oom_score_adj: Option<i32>,
    /// What a checkpoint must know of the machine's beginning. Absent in records of versions
    /// without checkpoints.
    #[serde(default)]
    pub(super) origin: Option<Origin>,
}

/// What a machine was booted from, and how its container was connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Origin {
    /// SHA-256 of the guest kernel.
    pub(super) kernel: String,
    /// SHA-256 of the initramfs, which is the agent.
    pub(super) agent: String,
    /// The container's standard streams.
    pub(super) stdio: Option<StdioPlan>,
}

impl Record {
    /// Its control group, to limit it.
    pub(super) fn group(&self) -> GroupRef<'_> {
        GroupRef { folders: &self.cgroups, unit: self.unit.as_deref() }
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::MachineSize;

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let size = MachineSize { memory_blocks: 1, vcpus: 2 };
        let vm = RunningVm {
            vcpus: 2,
            vcpus_max: 4,
            memory_mib: 256,
            memory_blocks_max: 3,
            overhead_mib: 48,
            size,
        };
        let cgroups = vec!["/sys/fs/cgroup/a".into()];
        let record = Record { vm, cgroups, unit: None, oom_score_adj: Some(-998), origin: None };
        assert!(Record::load(folder.path()).is_err());
        record.save(folder.path()).unwrap();
        assert_eq!(Record::load(folder.path()).unwrap(), record);
    }
}
