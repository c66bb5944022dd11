//! The helper's way to a container that goes on from an image: it enters the control groups that the
//! bundle asks for, makes what the restored processes are to inherit and CRIU does not save, and
//! becomes CRIU.
//!
//! ```text
//!   helper: groups, limits ─▶ session keyring, I/O priority ─▶ mount and cgroup namespaces ─▶ criu
//! ```
//!
//! The mount namespace is for CRIU alone: it wants the root file system to be a mount, and what is
//! mounted for that is gone with it. In the control group namespace the container's own are the root,
//! for the restored processes as for those that were saved.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix_of_libcgroups::unistd::Pid;
use rustix::fs::{Mode, OFlags};

use super::cgroup;
use super::criu::{self, CriuError};
use super::in_root::{self, Wanted};
use super::job::{MountPlace, ReviveJob};
use super::report::{Report, Reporter, describe};
use super::scheduling::SchedulingError;
use super::sys::{self, MountAttributes};
use crate::cgroup::delegation;
use crate::cgroup::systemd::{ScopeError, Unit};

/// Why CRIU could not begin.
#[derive(Debug, thiserror::Error)]
enum ReviveError {
    #[error("Cannot {step}")]
    Step { step: &'static str, source: io::Error },
    #[error("Cannot make the place for the mount at {place}")]
    Place { place: String, source: io::Error },
    #[error("Cannot make the container's control groups")]
    Groups(#[source] libcgroups::common::CreateCgroupSetupError),
    #[error("Cannot use the container's control groups: {0}")]
    Group(libcgroups::common::AnyManagerError),
    #[error(transparent)]
    Scope(#[from] ScopeError),
    #[error(transparent)]
    Scheduling(#[from] SchedulingError),
    #[error(transparent)]
    Criu(#[from] CriuError),
}

fn step(step: &'static str) -> impl FnOnce(io::Error) -> ReviveError {
    move |source| ReviveError::Step { step, source }
}

/// Does the job: returns only when it cannot.
pub(super) fn run(job: &ReviveJob, reporter: &Reporter) {
    let Err(e) = prepare(job).and_then(|()| {
        let pid = std::process::id().cast_signed();
        reporter.send(&Report::Ready { pid, cgroups: Vec::new() });
        become_criu(job)
    });
    reporter.send(&Report::Failed { kind: None, message: describe(&e) });
}

fn prepare(job: &ReviveJob) -> Result<(), ReviveError> {
    enter_groups(job)?;
    if job.new_session_keyring {
        match sys::new_session_keyring() {
            // As when the container was made: a kernel or a host without them.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {}
            other => other.map_err(step("make a session keyring"))?,
        }
    }
    job.scheduling.apply_unsaved()?;
    prepare_mounts(job)?;
    if job.hides_groups {
        unshare(CloneFlags::CLONE_NEWCGROUP)
            .map_err(|e| step("make a control group namespace")(e.into()))?;
    }
    if job.no_new_privileges {
        // CRIU 3.17 does not know of it; a process that CRIU makes has it from here on.
        nix::sys::prctl::set_no_new_privs().map_err(|e| step("set no_new_privs")(e.into()))?;
    }
    Ok(())
}

/// As `libcontainer` does it for a new container.
fn enter_groups(job: &ReviveJob) -> Result<(), ReviveError> {
    let own = std::process::id().cast_signed();
    let path = if job.systemd_cgroup {
        enter_scope(job, own)?
    } else {
        if cgroup::is_unified() {
            delegation::offer_controllers(&job.cgroups_path);
        }
        job.cgroups_path.clone()
    };
    let manager = create_cgroup_manager(CgroupConfig {
        cgroup_path: path.clone(),
        systemd_cgroup: false,
        container_name: job.id.clone(),
    })
    .map_err(ReviveError::Groups)?;
    manager.add_task(Pid::from_raw(own)).map_err(ReviveError::Group)?;
    if let Some(resources) = &job.resources {
        let options = ControllerOpt {
            resources,
            freezer_state: None,
            oom_score_adj: None,
            disable_oom_killer: false,
        };
        manager.apply(&options).map_err(ReviveError::Group)?;
    }
    cgroup::enter_without_controllers(&path).map_err(step("enter the remaining control groups"))
}

fn enter_scope(job: &ReviveJob, own: i32) -> Result<PathBuf, ReviveError> {
    let unit = Unit::known(job.cgroups_path.clone(), &job.id);
    let path = unit.start(own)?;
    if let Some(resources) = &job.resources {
        unit.tell_limits(resources)?;
    }
    Ok(path)
}

/// Mounts for CRIU alone: the root file system as a mount, with places for the others.
fn prepare_mounts(job: &ReviveJob) -> Result<(), ReviveError> {
    let failed = |what| move |e: nix::errno::Errno| step(what)(e.into());
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace"))?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
        .map_err(failed("keep mounts from the host"))?;
    for place in &job.places {
        make_place(place).map_err(|source| {
            let place = place.root.join(&place.below).display().to_string();
            ReviveError::Place { place, source }
        })?;
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(&job.rootfs), &job.rootfs, none, flags, none)
        .map_err(failed("make the root file system a mount"))?;
    if job.root_is_read_only {
        set_read_only(&job.rootfs).map_err(step("make the root file system read-only"))?;
    }
    Ok(())
}

/// CRIU 3.17 does not: what it makes the container's root of, is what it comes to be.
fn set_read_only(rootfs: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(rootfs, flags, Mode::empty())?;
    let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
    sys::mount_setattr(root.as_fd(), false, read_only)
}

fn make_place(place: &MountPlace) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = File::from(rustix::fs::open(&place.root, flags, Mode::empty())?);
    if !root.metadata()?.is_dir() {
        return Ok(());
    }
    let wanted = if place.is_file { Wanted::File } else { Wanted::Folder };
    in_root::open(root.as_fd(), &place.below, wanted).map(drop)
}

fn become_criu(job: &ReviveJob) -> Result<std::convert::Infallible, ReviveError> {
    let socket = sys::inherited(job.socket).map_err(step("find criu's socket"))?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty())
        .map_err(|e| step("hand criu its socket")(e.into()))?;
    let arguments = [criu::PROGRAM.to_owned(), "swrk".to_owned(), job.socket.to_string()];
    let arguments: Result<Vec<_>, _> = arguments.into_iter().map(CString::new).collect();
    let arguments = arguments.map_err(|e| step("name criu")(e.into()))?;
    let Err(errno) = nix::unistd::execvp(&arguments[0], &arguments);
    if errno == nix::errno::Errno::ENOENT {
        return Err(CriuError::Missing.into());
    }
    Err(step("start criu")(errno.into()))
}
