//! What is done at CRIU's notices while it sets a container going again: hooks, the terminal, and,
//! before anything of the container runs, a comparison with what was saved.
//!
//! Hostile: nothing but what the container left in its files. A container that came back with less
//! confinement is ended here: later it would run.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use super::cgroup;
use super::confinement::Observed;
use super::create::Prepared;
use super::criu::{CriuError, Notice};
use super::criu_image::Manifest;
use super::hook::{self, HookError, HookState};
use super::members;
use super::mount_table;
use super::record::Record;
use crate::cgroup::Groups;
use crate::cgroup::freezer::{self, FreezerError};
use crate::host::process::ProcessIdentity;
use crate::sandbox::request::CreateRequest;

/// Why a container that came back does not go on.
#[derive(Debug, thiserror::Error)]
pub enum NoticeError {
    /// It cannot be looked at.
    #[error("Cannot look at the restored processes")]
    Observe(#[source] io::Error),
    /// It came back otherwise than it was.
    #[error("The container did not come back as it was: {0}. It was ended")]
    Differs(String),
    /// The freezer.
    #[error(transparent)]
    Freezer(#[from] FreezerError),
    /// A hook.
    #[error("{0}")]
    Hook(String),
    /// CRIU.
    #[error(transparent)]
    Criu(#[from] CriuError),
}

impl From<HookError> for NoticeError {
    fn from(error: HookError) -> Self {
        Self::Hook(super::report::describe(&error))
    }
}

/// What is done while CRIU works.
pub(super) struct Restoring<'a> {
    pub(super) request: &'a CreateRequest,
    pub(super) prepared: &'a Prepared,
    pub(super) manifest: &'a Manifest,
    pub(super) record: &'a mut Record,
    pub(super) criu: i32,
    pub(super) terminal: Option<OwnedFd>,
}

impl Restoring<'_> {
    pub(super) fn attend(&mut self, notice: Notice) -> Result<(), NoticeError> {
        match notice.step.as_str() {
            "setup-namespaces" => self.run_hooks(notice.pid),
            "orphan-pts-master" => {
                self.terminal = notice.descriptor;
                Ok(())
            }
            "post-restore" => self.meet(notice.pid),
            "pre-resume" => self.hold(),
            _ => Ok(()),
        }
    }

    /// Those of the runtime's namespaces, as runc does: they set up the container's network.
    fn run_hooks(&self, pid: i32) -> Result<(), NoticeError> {
        let Some(hooks) = self.request.spec.hooks() else { return Ok(()) };
        let spec = &self.prepared.hardened.spec;
        let mut state = HookState {
            oci_version: spec.version().clone(),
            id: self.request.id.to_string(),
            status: "created".to_owned(),
            pid,
            bundle: self.request.bundle.clone(),
            folder: None,
            annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        };
        #[allow(deprecated, reason = "engines still write prestart hooks")]
        let prestart = hooks.prestart().clone().unwrap_or_default();
        hook::run_all("prestart", &prestart, &state, None)?;
        state.status = "creating".to_owned();
        let create_runtime = hooks.create_runtime().clone().unwrap_or_default();
        Ok(hook::run_all("createRuntime", &create_runtime, &state, None)?)
    }

    /// The first process is there. The later notices do not name it.
    fn meet(&mut self, pid: i32) -> Result<(), NoticeError> {
        self.record.init = Some(ProcessIdentity::of(pid).map_err(NoticeError::Observe)?);
        let root = fs::metadata(format!("/proc/{pid}/root")).map_err(NoticeError::Observe)?;
        self.record.root = Some((root.dev(), root.ino()));
        Ok(())
    }

    /// Every process is complete and stands still: it is frozen, and compared with what was saved.
    /// One that differs is ended here, before CRIU: without it they would run.
    fn hold(&self) -> Result<(), NoticeError> {
        let init = self.record.init.ok_or(io::ErrorKind::NotFound.into());
        let init = init.map_err(NoticeError::Observe)?;
        let held = self.freeze().and_then(|()| match self.compare(init.pid) {
            Some(difference) => Err(NoticeError::Differs(difference)),
            None => Ok(()),
        });
        if held.is_err() {
            let _ = cgroup::signal_all(&self.record.cgroups, libc::SIGKILL);
        }
        held
    }

    fn freeze(&self) -> Result<(), NoticeError> {
        // CRIU is in the groups too, and is to work on.
        cgroup::return_to_own(self.criu).map_err(NoticeError::Observe)?;
        Ok(freezer::freeze(Groups::new(&self.record.cgroups))?)
    }

    fn compare(&self, pid: i32) -> Option<String> {
        let observed = match Observed::now(pid, &members::of(self.record)) {
            Ok(observed) => observed,
            Err(e) => return Some(e.to_string()),
        };
        if let Some(difference) = observed.difference(&self.manifest.observed) {
            return Some(difference);
        }
        let mounts = match mount_table::of_process(pid) {
            Ok(mounts) => mount_table::facts(&mounts),
            Err(e) => return Some(e.to_string()),
        };
        let place = mount_table::difference(&self.manifest.mounts, &mounts)?;
        Some(format!("the mount at {} is another", place.display()))
    }
}
