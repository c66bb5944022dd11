//! The step between `libcontainer`'s mounts and its change of root: a copy of this program that it
//! runs, as if it were a hook, in the container's namespaces and with the host's files still in
//! sight. Here the mounts are made that are ours ([`super::staged_mount`]), and then the hooks are
//! run that belong to this moment, in the order and with the words of runc.
//!
//! ```text
//!   libcontainer: namespaces, /proc, /dev, ... ─▶ stage: mounts ─▶ prestart, createRuntime
//!                 change of root ◀───────────────        createContainer ◀──┘
//! ```
//!
//! Most containers need none of it and are spared one execution.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::attendant::{self, Request};
use super::hook::{self, HookState};
use super::own_users;
use super::report::{Report, Reporter, describe};
use super::staged_mount::{self, StagedMount};

/// The argument by which a helper knows that it is a stage.
pub(super) const ARGUMENT: &str = "stage";

/// What a stage does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StageJob {
    rootfs: PathBuf,
    pub(super) mounts: Vec<StagedMount>,
    /// Whether sources may be out of reach from inside.
    has_user_namespace: bool,
    pub(super) prestart: Vec<Hook>,
    pub(super) create_runtime: Vec<Hook>,
    create_container: Vec<Hook>,
    pub(super) state: HookState,
    /// Whether the host's control groups lie under what `libcontainer` is shown.
    pub(super) groups_are_covered: bool,
}

/// Why a stage failed.
#[derive(Debug, thiserror::Error)]
enum StageError {
    #[error("Cannot open the root file system")]
    Root(#[source] io::Error),
    #[error("Cannot show the control groups of the host")]
    Uncover(#[source] io::Error),
    #[error(transparent)]
    Mount(#[from] staged_mount::MountError),
    #[error("Cannot open the source of mounts[{0}]")]
    Source(usize, #[source] io::Error),
    #[error("{0}")]
    RuntimeHooks(io::Error),
    #[error(transparent)]
    Hook(#[from] hook::HookError),
}

impl StageJob {
    /// What is left for a stage of this spec, if anything is. It is taken out of the spec.
    pub(super) fn take(spec: &mut Spec, id: &str, rootfs: &Path, bundle: &Path) -> Option<Self> {
        let mut all = spec.mounts().clone().unwrap_or_default();
        let numbers = staged_mount::numbers(&all);
        let mounts: Vec<_> = numbers
            .iter()
            .map(|number| StagedMount::of(*number, &all[*number], rootfs, bundle))
            .collect();
        let hooks = spec.hooks().clone().unwrap_or_default();
        #[allow(deprecated, reason = "engines still write prestart hooks")]
        let prestart = hooks.prestart().clone().unwrap_or_default();
        let job = Self {
            rootfs: rootfs.to_owned(),
            mounts,
            has_user_namespace: has_user_namespace(spec),
            prestart,
            create_runtime: hooks.create_runtime().clone().unwrap_or_default(),
            create_container: hooks.create_container().clone().unwrap_or_default(),
            state: HookState {
                oci_version: spec.version().clone(),
                id: id.to_owned(),
                status: "creating".to_owned(),
                pid: 0,
                bundle: bundle.to_owned(),
                folder: None,
                annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
            },
            groups_are_covered: false,
        };
        let mut number = 0;
        all.retain(|_| {
            number += 1;
            !numbers.contains(&(number - 1))
        });
        spec.set_mounts(Some(all)).set_hooks(None);
        (!job.is_idle()).then_some(job)
    }

    fn is_idle(&self) -> bool {
        self.mounts.is_empty() && !self.has_runtime_hooks() && self.create_container.is_empty()
    }

    fn has_runtime_hooks(&self) -> bool {
        !self.prestart.is_empty() || !self.create_runtime.is_empty()
    }
}

fn has_user_namespace(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|n| n.typ() == LinuxNamespaceType::User)
}

/// Does the job; what fails is reported. Whether it went well.
pub(super) fn run(job: &StageJob, reporter: &Reporter, socket: &OwnedFd) -> bool {
    match try_run(job, socket) {
        Ok(()) => true,
        Err(e) => {
            reporter.send(&Report::Failed { kind: None, message: describe(&e) });
            false
        }
    }
}

fn try_run(job: &StageJob, socket: &OwnedFd) -> Result<(), StageError> {
    if job.groups_are_covered {
        own_users::uncover().map_err(StageError::Uncover)?;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&job.rootfs, flags, Mode::empty())
        .map_err(|e| StageError::Root(e.into()))?;
    for (place, mount) in job.mounts.iter().enumerate() {
        let from_outside =
            mount.bind().is_some_and(|bind| job.has_user_namespace || bind.owners.is_some());
        let tree = if from_outside {
            let [.., high, low] = place.to_be_bytes();
            attendant::ask(socket.as_fd(), Request::Open(high, low))
                .map_err(|e| StageError::Source(mount.number, e))?
        } else {
            None
        };
        mount.make(root.as_fd(), tree)?;
    }
    if job.has_runtime_hooks() {
        attendant::ask(socket.as_fd(), Request::RunHooks).map_err(StageError::RuntimeHooks)?;
    }
    let mut state = job.state.clone();
    // As runc: those of the container start in its root.
    state.folder = Some(job.rootfs.clone());
    state.pid = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    Ok(hook::run_all("createContainer", &job.create_container, &state, None)?)
}
