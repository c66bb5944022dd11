//! What a helper is to do, as it travels to it.

use std::os::fd::RawFd;
use std::path::PathBuf;

use oci_spec::runtime::{Hook, LinuxResources, Spec};
use serde::{Deserialize, Serialize};

use super::mounts::MountFinish;
use super::own_users::OwnUsers;
use super::process::ProcessPlan;
use super::scheduling::SchedulingPlan;
use super::stage::StageJob;
use crate::host::process::ProcessIdentity;

/// What a helper is to do.
#[derive(Serialize, Deserialize)]
pub(super) enum Job {
    /// Make a container.
    Construct(Box<ConstructJob>),
    /// Add a process to one.
    Join(Box<JoinJob>),
    /// Set one going again.
    Revive(Box<ReviveJob>),
}

/// A container to be made.
#[derive(Serialize, Deserialize)]
pub(super) struct ConstructJob {
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) state_folder: PathBuf,
    /// What is left for `libcontainer` of the (hardened) spec.
    pub(super) spec: Spec,
    pub(super) process: ProcessPlan,
    pub(super) finish_mounts: Vec<MountFinish>,
    pub(super) masked_paths: Vec<String>,
    /// Limits that this crate sets itself.
    pub(super) own_limits: Option<LinuxResources>,
    pub(super) start_hooks: Vec<Hook>,
    /// What is done between the mounts and the change of root.
    pub(super) stage: Option<StageJob>,
    /// `pids.max`, for when the processes that make the container are gone.
    pub(super) pids_limit: Option<String>,
    pub(super) cgroups_path: PathBuf,
    pub(super) systemd_cgroup: bool,
    pub(super) rootless: Option<RootlessJob>,
    pub(super) no_pivot: bool,
    pub(super) console: Option<RawFd>,
}

/// A container that goes on from an image.
#[derive(Serialize, Deserialize)]
pub(super) struct ReviveJob {
    pub(super) id: String,
    pub(super) rootfs: PathBuf,
    pub(super) root_is_read_only: bool,
    /// The (hardened) spec, for its limits.
    pub(super) resources: Option<LinuxResources>,
    pub(super) cgroups_path: PathBuf,
    pub(super) systemd_cgroup: bool,
    /// It has a control group namespace of its own.
    pub(super) hides_groups: bool,
    pub(super) new_session_keyring: bool,
    pub(super) no_new_privileges: bool,
    pub(super) scheduling: SchedulingPlan,
    /// Where mounts are to be, each on a folder or on a file.
    pub(super) places: Vec<MountPlace>,
    /// CRIU's end of its socket.
    pub(super) socket: RawFd,
}

/// A place for a mount.
#[derive(Serialize, Deserialize)]
pub(super) struct MountPlace {
    /// What it is in: the root file system, or what is bound there.
    pub(super) root: PathBuf,
    pub(super) below: PathBuf,
    pub(super) is_file: bool,
}

/// What is done before anything else where the caller is not the machine's root.
#[derive(Serialize, Deserialize)]
pub(super) struct RootlessJob {
    /// The user namespace to enter.
    pub(super) users: Option<OwnUsers>,
    /// The control group to enter: made, with its limits.
    pub(super) group: Option<PathBuf>,
}

/// One more process for a container.
#[derive(Serialize, Deserialize)]
pub(super) struct JoinJob {
    /// The container's first process.
    pub(super) init: ProcessIdentity,
    /// Its root as `create` left it: the folder's file system and number.
    pub(super) root: Option<(u64, u64)>,
    /// The groups to enter.
    pub(super) cgroups: Vec<PathBuf>,
    /// They are those that `--cgroup` names: no others will do.
    pub(super) cgroups_are_named: bool,
    /// What to become.
    pub(super) process: ProcessPlan,
    /// Where to send the terminal's master side.
    pub(super) console: Option<RawFd>,
}
