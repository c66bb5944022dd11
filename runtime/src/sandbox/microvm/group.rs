//! The sandbox's control group on the host: the monitor with its virtual machine, and what they may
//! take.
//!
//! ```text
//!   prepare ─▶ recorded ─▶ create (v1, v2) ─▶ monitor born in it (v2), or moved into it (v1)
//!                     └──▶ systemd makes it around the monitor that waits at its gate, and it is
//!                          recorded then
//!   ready ─▶ processor time and disks limited ─▶ released: `delete` removes it
//!   dropped before: removed
//! ```
//! Where making groups is not allowed (an ordinary user, a container with a read-only hierarchy)
//! there is none, and `state` says so: the guest's memory and processors bound the sandbox then. What
//! nothing in the guest could keep, limits on the host's disks, is refused there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxResources, Spec};

use crate::cgroup::Groups;
use crate::cgroup::delegation;
use crate::cgroup::host::{self, HostGroup, HostGroupError};
use crate::cgroup::limits::{LimitError, Version};
use crate::cgroup::systemd::{ScopeError, Unit};
use crate::cgroup::writes::{self, Write, WriteError};
use crate::host::user::User;
use crate::plan::{VmShape, host_limits};
use crate::sandbox::request::CreateRequest;

/// A group that is not needed any more has no processes but ones that were killed.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);

/// Why the sandbox cannot be limited.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The folder.
    #[error(transparent)]
    Host(#[from] HostGroupError),
    /// The limits contradict each other.
    #[error("The limits cannot be kept on the host")]
    Limits(#[from] LimitError),
    /// The kernel refused a limit.
    #[error("The sandbox's limits cannot be set")]
    Write(#[from] WriteError),
    /// Limits on disks, which nothing but a group of the host's can keep.
    #[error(
        "{field} cannot be kept: it limits the host's disks, and the sandbox has no control group \
         of its own on the host ({reason})"
    )]
    NoGroupForDisks {
        /// What was asked for.
        field: &'static str,
        /// Why there is no group.
        reason: String,
    },
    /// `--systemd-cgroup` of a user.
    #[error(
        "--systemd-cgroup takes root: an ordinary user starts the runtime itself with \
         `systemd-run --user --scope --property=Delegate=yes`"
    )]
    NoUserSystemd,
    /// The group that was to be in what the user was given.
    #[error(transparent)]
    Delegated(#[from] delegation::GroupError),
    /// systemd.
    #[error(transparent)]
    Scope(#[from] ScopeError),
}

/// Where the sandbox goes.
#[derive(Debug)]
enum Place {
    /// Nowhere of its own, for this reason.
    Nowhere(String),
    /// Folders that we make.
    Folders(HostGroup),
    /// A folder in what was given to a caller who is not the machine's root.
    Delegated(HostGroup),
    /// A unit that systemd makes.
    Unit(Unit),
}

/// The group of a sandbox, to limit it.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupRef<'a> {
    /// Its folders; none where there is no group.
    pub(super) folders: &'a [PathBuf],
    /// The unit of systemd's that they are, by the path that the configuration has for it.
    pub(super) unit: Option<&'a Path>,
}

impl GroupRef<'_> {
    /// Writes limits, and tells systemd of them, whose unit it is.
    fn write(self, list: &[Write]) -> Result<(), GroupError> {
        if self.folders.is_empty() {
            return Ok(());
        }
        writes::apply_and(Groups::new(self.folders), list, || match self.unit {
            Some(path) => Ok(Unit::known(path.to_owned(), "").tell(list)?),
            None => Ok(()),
        })
    }

    fn version(self) -> Version {
        Groups::new(self.folders).version()
    }

    /// Limits processor time.
    pub(super) fn limit_processors(self, resources: &LinuxResources) -> Result<(), GroupError> {
        self.write(&host_limits::of_processors(self.version(), resources)?)
    }

    /// Limits what is read from disks and written to them.
    pub(super) fn limit_disks(self, resources: &LinuxResources) -> Result<(), GroupError> {
        let Some(field) = host_limits::disk_field(resources) else { return Ok(()) };
        if self.folders.is_empty() {
            let reason = "it was created without one".to_owned();
            return Err(GroupError::NoGroupForDisks { field, reason });
        }
        self.write(&host_limits::of_disks(self.version(), resources)?)
    }

    /// Limits memory to what a guest with this much of it takes of the host.
    pub(super) fn limit_memory(self, guest_mib: u64) -> Result<(), GroupError> {
        self.write(&[host_limits::of_memory(self.version(), guest_mib)])
    }

    /// The limits that hold from the beginning.
    fn limit_at_birth(self, shape: &VmShape) -> Result<(), GroupError> {
        self.write(&host_limits::at_birth(self.version(), shape))
    }
}

/// The group, removed when it is dropped before its release.
#[derive(Debug)]
pub(super) struct SandboxGroup {
    place: Place,
    /// The unit that the place is, once systemd has made it.
    unit: Option<PathBuf>,
    /// The field that limits disks, if one does.
    disks: Option<&'static str>,
    released: bool,
}

impl SandboxGroup {
    /// Where it will be.
    pub(super) fn prepare(request: &CreateRequest) -> Result<Self, GroupError> {
        let linux = request.spec.linux().as_ref();
        let said = linux.and_then(|linux| linux.cgroups_path().clone());
        let said = said.filter(|path| !path.as_os_str().is_empty());
        let id = &request.id;
        let place = if User::current().is_rootless() {
            if request.systemd_cgroup {
                return Err(GroupError::NoUserSystemd);
            }
            delegated(said.as_deref(), &format!("cofferdam-{id}"))?
        } else if request.systemd_cgroup {
            Place::Unit(Unit::planned(said, id.as_str())?)
        } else {
            let path = said.unwrap_or_else(|| format!("/{id}").into());
            let group = HostGroup::planned(&path)?;
            group.check_unused()?;
            Place::Folders(group)
        };
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let disks = resources.and_then(host_limits::disk_field);
        let group = Self { place, unit: None, disks, released: false };
        group.check_disks()?;
        Ok(group)
    }

    /// For a monitor that is only a test's.
    #[cfg(test)]
    pub(super) const fn nowhere() -> Self {
        let place = Place::Nowhere(String::new());
        Self { place, unit: None, disks: None, released: false }
    }

    /// Sees that there can be somewhere to keep the limits on disks.
    fn check_disks(&self) -> Result<(), GroupError> {
        match (&self.place, self.disks) {
            (Place::Nowhere(reason), Some(field)) => {
                Err(GroupError::NoGroupForDisks { field, reason: reason.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Whether nothing on the host limits the sandbox.
    pub(super) const fn is_nowhere(&self) -> bool {
        matches!(self.place, Place::Nowhere(_))
    }

    /// To limit it, and for the record.
    pub(super) fn group(&self) -> GroupRef<'_> {
        GroupRef { folders: self.folders(), unit: self.unit.as_deref() }
    }

    /// What `delete` has to remove.
    pub(super) fn folders(&self) -> &[PathBuf] {
        match &self.place {
            Place::Folders(group) | Place::Delegated(group) => group.folders(),
            Place::Nowhere(_) | Place::Unit(_) => &[],
        }
    }

    /// Makes it, with its limits.
    pub(super) fn create(&mut self, shape: &VmShape) -> Result<(), GroupError> {
        if let Place::Delegated(group) = &self.place {
            for folder in group.folders() {
                delegation::make(folder, None)?;
            }
            warn_of_missing(self.group().limit_at_birth(shape))?;
        }
        let Place::Folders(group) = &self.place else { return Ok(()) };
        match group.create() {
            Err(error) if error.is_denied() => {
                let reason = crate::host::log::with_causes(&error);
                tracing::warn!("The sandbox has no control group of its own: {reason}");
                // What was made of it before the refusal.
                let _ = host::remove(group.folders(), Instant::now());
                self.place = Place::Nowhere(reason);
                self.check_disks()
            }
            Err(error) => Err(error.into()),
            Ok(()) => self.group().limit_at_birth(shape),
        }
    }

    /// The folder in which a process can be born.
    pub(super) fn birthplace(&self) -> Option<&Path> {
        match &self.place {
            Place::Folders(group) | Place::Delegated(group) if group.version() == Version::V2 => {
                group.folders().first().map(PathBuf::as_path)
            }
            Place::Folders(_) | Place::Delegated(_) | Place::Nowhere(_) | Place::Unit(_) => None,
        }
    }

    /// Moves a process into it that was not born there.
    pub(super) fn enter(&mut self, pid: i32, shape: &VmShape) -> Result<(), GroupError> {
        match &self.place {
            Place::Folders(group) if group.version() == Version::V1 => Ok(group.enter(pid)?),
            Place::Folders(_) | Place::Delegated(_) | Place::Nowhere(_) => Ok(()),
            Place::Unit(unit) => {
                let group = HostGroup::planned(&unit.start(pid)?)?;
                self.unit = Some(unit.path().to_owned());
                self.place = Place::Folders(group);
                self.group().limit_at_birth(shape)
            }
        }
    }

    /// Limits its processor time, and what it reads from disks and writes to them.
    pub(super) fn limit_workload(&self, spec: &Spec) -> Result<(), GroupError> {
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let Some(resources) = resources else { return Ok(()) };
        self.group().limit_disks(resources)?;
        let limited = self.group().limit_processors(resources);
        if matches!(self.place, Place::Delegated(_)) { warn_of_missing(limited) } else { limited }
    }

    /// What `state` shows of it.
    pub(super) fn description(&self) -> String {
        match &self.place {
            Place::Nowhere(reason) => format!("none: {reason}"),
            Place::Folders(group) | Place::Delegated(group) => {
                group.folders().first().map(|path| path.display().to_string()).unwrap_or_default()
            }
            Place::Unit(unit) => unit.path().display().to_string(),
        }
    }

    /// Lets it stay.
    pub(super) fn release(mut self) {
        self.released = true;
    }
}

impl Drop for SandboxGroup {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        if let Err(error) = remove(self.group()) {
            host::warn_of_left(self.folders(), &error);
        }
    }
}

/// Moves a process into a sandbox's groups.
pub(super) fn enter(folders: &[PathBuf], pid: i32) -> io::Result<()> {
    folders.iter().try_for_each(|folder| fs::write(folder.join("cgroup.procs"), pid.to_string()))
}

/// Removes a sandbox's group, and the unit of systemd's that it is.
pub(super) fn remove(group: GroupRef<'_>) -> io::Result<()> {
    let deadline = Instant::now() + REMOVE_DEADLINE;
    if let Some(path) = group.unit {
        host::kill_all(group.folders);
        Unit::known(path.to_owned(), "").stop(group.folders, deadline);
    }
    host::remove(group.folders, deadline)
}

/// The group of a caller who is not the machine's root.
fn delegated(said: Option<&Path>, name: &str) -> Result<Place, GroupError> {
    Ok(match delegation::find(said, name) {
        Ok(folder) => {
            let group = HostGroup::given(folder);
            group.check_unused()?;
            Place::Delegated(group)
        }
        Err(reason) => {
            tracing::warn!("The sandbox has no control group of its own: {reason}");
            Place::Nowhere(reason.to_string())
        }
    })
}

/// In a group that was given without some controllers: the guest keeps the workload's limits.
fn warn_of_missing(limited: Result<(), GroupError>) -> Result<(), GroupError> {
    let Err(GroupError::Write(error)) = limited else { return limited };
    let reason = crate::host::log::with_causes(&error);
    tracing::warn!("The sandbox is not limited on the host: {reason}");
    Ok(())
}
