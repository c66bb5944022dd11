//! What `create` knows of a microVM and later verbs need: a file in the state folder.

use std::io;
use std::path::{Path, PathBuf};

use cofferdam_protocol::plan::StdioPlan;
use serde::{Deserialize, Serialize};

use crate::host::replace::replace_file;
use crate::plan::RunningVm;

const FILE: &str = "microvm.json";

/// The record of a microVM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The machine.
    pub(super) vm: RunningVm,
    /// The folders of its control group on the host.
    pub(super) cgroups: Vec<PathBuf>,
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
    /// Writes it: completely, or not at all.
    pub(super) fn save(&self, state_folder: &Path) -> io::Result<()> {
        replace_file(&state_folder.join(FILE), &serde_json::to_vec(self)?, 0o600)
    }

    /// Reads it, if `create` has come as far as writing it. A damaged one tells nothing, and must
    /// not keep the container from being deleted.
    pub(super) fn find(state_folder: &Path) -> io::Result<Option<Self>> {
        match Self::load(state_folder) {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if is_damage(&error) => {
                tracing::warn!("{FILE} is damaged, and control groups may be left: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads it.
    pub(super) fn load(state_folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(state_folder.join(FILE))?)?)
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
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
        let record = Record { vm, cgroups: vec!["/sys/fs/cgroup/a".into()], origin: None };
        assert!(Record::load(folder.path()).is_err());
        record.save(folder.path()).unwrap();
        assert_eq!(Record::load(folder.path()).unwrap(), record);
    }
}
