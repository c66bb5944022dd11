//! `--systemd-cgroup`: a control group that systemd makes (v2), a scope around a process that is there
//! already.
//!
//! ```text
//!   SLICE:PREFIX:NAME ──start──▶ PREFIX-NAME.scope in SLICE, with the process in it
//!                                  └─▶ a group like any other: entered, limited and removed as files
//! ```
//! systemd is asked by a thread that gives way to it: where there is no D-Bus daemon but systemd's own
//! socket, systemd does not see a message that arrives together with the end of the greeting, until
//! another arrives. The thread has descriptors of its own, so that no process inherits the socket.
//!
//! What this is not: it starts no process, and takes none from a scope that somebody else has.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use libcgroups::common::{
    AnyCgroupManager, AnyManagerError, CgroupConfig, CgroupManager, ControllerOpt,
    CreateCgroupSetupError, create_cgroup_manager,
};
use nix::sched::{CloneFlags, unshare};
use nix_of_libcgroups::unistd::Pid;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::host::sys;

/// Why there is no scope.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// systemd does not manage the control groups.
    #[error("--systemd-cgroup needs a host that systemd has booted, with cgroup v2 only")]
    NoSystemd,
    /// A path that is none of systemd's.
    #[error("linux.cgroupsPath is {0}: for systemd it is SLICE:PREFIX:NAME")]
    Path(PathBuf),
    /// No connection of its own.
    #[error("Cannot have descriptors of a thread's own")]
    Descriptors(#[source] nix::Error),
    /// systemd does not answer.
    #[error("systemd, which is to make the container's control group, cannot be asked")]
    Bus(#[source] Box<CreateCgroupSetupError>),
    /// Somebody else's processes are in it. The words are runc's.
    #[error("container's cgroup is not empty: there are processes in the scope {0}")]
    InUse(PathBuf),
    /// systemd refused.
    #[error("systemd does not make the container's control group")]
    Refused(#[source] Box<AnyManagerError>),
    /// The group that systemd made is not to be found.
    #[error("The control group that systemd has made cannot be found")]
    Group(#[source] io::Error),
    /// systemd refused a limit.
    #[error("systemd does not limit the container's control group")]
    Limit(#[source] Box<AnyManagerError>),
}

/// A unit that systemd makes, by the path that the configuration has for it.
#[derive(Clone, Debug)]
pub struct Unit {
    path: PathBuf,
    id: String,
}

impl Unit {
    /// What systemd is to make, looked at before anything is made.
    ///
    /// # Errors
    /// When there is no systemd, or the path is not one of its.
    pub fn planned(said: Option<PathBuf>, id: &str) -> Result<Self, ScopeError> {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        if !(unified && Path::new("/run/systemd/system").is_dir()) {
            return Err(ScopeError::NoSystemd);
        }
        let path = said.unwrap_or_else(|| format!("system.slice:cofferdam:{id}").into());
        match path.to_string_lossy().matches(':').count() {
            2 => Ok(Self::known(path, id)),
            _ => Err(ScopeError::Path(path)),
        }
    }

    /// One that was planned.
    #[must_use]
    pub fn known(path: PathBuf, id: &str) -> Self {
        Self { path, id: id.to_owned() }
    }

    /// The path that the configuration has for it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has systemd make it, with a process in it: the group's path from the top of the hierarchy.
    ///
    /// # Errors
    /// When it does not, or when there are processes in it.
    pub fn start(&self, pid: i32) -> Result<PathBuf, ScopeError> {
        self.ask(|manager| {
            if manager.get_all_pids().is_ok_and(|pids| !pids.is_empty()) {
                return Err(ScopeError::InUse(self.path.clone()));
            }
            let asked = manager.add_task(Pid::from_raw(pid));
            asked.map_err(|error| ScopeError::Refused(Box::new(error)))
        })?;
        group_of(pid).map_err(ScopeError::Group)
    }

    /// Tells systemd of the limits that it knows, so that it does not undo them when it sets those of
    /// its units anew.
    ///
    /// # Errors
    /// When it refuses one.
    pub fn tell_limits(&self, resources: &LinuxResources) -> Result<(), ScopeError> {
        let known = known_limits(resources);
        let options = ControllerOpt {
            resources: &known,
            freezer_state: None,
            oom_score_adj: None,
            disable_oom_killer: false,
        };
        self.ask(|manager| {
            manager.apply(&options).map_err(|error| ScopeError::Limit(Box::new(error)))
        })
    }

    /// The same of the most processes that there may be: a number or `max`.
    ///
    /// # Errors
    /// When it refuses.
    pub fn tell_processes(&self, most: &str) -> Result<(), ScopeError> {
        let mut pids = LinuxPids::default();
        pids.set_limit(most.parse().unwrap_or(-1));
        let mut resources = LinuxResources::default();
        resources.set_pids(Some(pids));
        self.tell_limits(&resources)
    }

    fn ask(
        &self,
        question: impl FnOnce(&AnyCgroupManager) -> Result<(), ScopeError> + Send,
    ) -> Result<(), ScopeError> {
        let asking = || {
            if let Err(error) = sys::give_way_to_everyone() {
                tracing::debug!(%error, "systemd is asked at the usual priority");
            }
            unshare(CloneFlags::CLONE_FILES).map_err(ScopeError::Descriptors)?;
            let manager = create_cgroup_manager(CgroupConfig {
                cgroup_path: self.path.clone(),
                systemd_cgroup: true,
                container_name: self.id.clone(),
            });
            question(&manager.map_err(|error| ScopeError::Bus(Box::new(error)))?)
        };
        match thread::scope(|scope| scope.spawn(asking).join()) {
            Ok(asked) => asked,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Limits that are something to systemd. Zero is none; the others are files of the group alone.
fn known_limits(resources: &LinuxResources) -> LinuxResources {
    let mut known = LinuxResources::default();
    known.set_devices(None).set_pids(*resources.pids());
    if let Some(limit) = resources.memory().and_then(|memory| memory.limit()) {
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(limit).filter(|limit| *limit != 0));
        known.set_memory(Some(memory));
    }
    if let Some(cpu) = resources.cpu() {
        let mut times = LinuxCpu::default();
        times.set_shares(cpu.shares().filter(|shares| *shares != 0));
        if let Some(quota) = cpu.quota().filter(|quota| *quota > 0) {
            times.set_quota(Some(quota)).set_period(cpu.period().filter(|period| *period != 0));
        }
        known.set_cpu(Some(times));
    }
    known
}

/// The group (v2) that a process is in.
fn group_of(pid: i32) -> io::Result<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    Ok(path.ok_or(io::ErrorKind::NotFound)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_told_of_what_it_has_a_name_for() {
        let resources = r#"{"memory":{"limit":1000,"swap":2000},"pids":{"limit":9},
            "cpu":{"shares":512,"quota":50000,"period":0,"cpus":"0","burst":1},
            "blockIO":{"weight":10},"unified":{"io.max":"1"}}"#;
        let known = known_limits(&serde_json::from_str(resources).unwrap());
        let expected = r#"{"memory":{"limit":1000},"pids":{"limit":9},
            "cpu":{"shares":512,"quota":50000}}"#;
        let expected: LinuxResources = serde_json::from_str(expected).unwrap();
        assert_eq!(known, expected);
    }

    #[test]
    fn what_is_no_limit_is_not_told() {
        let none = r#"{"memory":{"limit":0},"cpu":{"shares":0,"quota":-1,"period":100000}}"#;
        let known = known_limits(&serde_json::from_str(none).unwrap());
        assert_eq!(known.memory().unwrap().limit(), None);
        assert_eq!(known.cpu(), &Some(LinuxCpu::default()));
    }

    #[test]
    fn the_group_of_a_process_is_read_from_proc() {
        assert!(group_of(std::process::id().cast_signed()).unwrap().is_absolute());
    }
}
