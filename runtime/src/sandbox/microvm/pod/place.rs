//! The places that a pod's machine keeps among its shares: a member's files are mounted there, in
//! the mount namespace that the monitor's file server has for itself. The monitor gave up what
//! mounting takes when it started; the runtime enters that namespace for a moment, with a thread of
//! its own. What is mounted there is seen by nobody else, and goes with the monitor.
//!
//! Nothing there is the guest's: its root was made by the monitor before any guest ran, and is
//! read-only.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use cofferdam_protocol::vm_config::{FILE_SERVER_THREAD, PodPlace, ShareKind};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_remount, move_mount, unmount,
};

use crate::host::process::ProcessIdentity;
use crate::sandbox::microvm::shares::OpenShare;

/// Why a member's files have no place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The monitor, or its thread.
    #[error("The file server of the pod's machine cannot be found")]
    Find(#[source] io::Error),
    /// Its mount namespace.
    #[error("The mount namespace of the pod's file server cannot be entered")]
    Enter(#[source] io::Error),
    /// There is no such folder.
    #[error(
        "The machine has no place for another container: it was not made for a pod (its container's \
         annotations say so)"
    )]
    None,
    /// A mount.
    #[error("{step} failed")]
    Mount {
        /// Which.
        step: &'static str,
        /// Why.
        source: Errno,
    },
}

fn step(step: &'static str) -> impl Fn(Errno) -> PlaceError {
    move |source| PlaceError::Mount { step, source }
}

/// The mount namespace of a pod's file server.
#[derive(Debug)]
pub(super) struct ServerMounts {
    namespace: File,
}

impl ServerMounts {
    /// Finds it.
    pub(super) fn of(monitor: ProcessIdentity) -> Result<Self, PlaceError> {
        let find = || {
            let tasks = format!("/proc/{}/task", monitor.pid);
            for task in fs::read_dir(tasks)? {
                let task = task?.path();
                if fs::read_to_string(task.join("comm"))?.trim_end() == FILE_SERVER_THREAD {
                    return File::open(task.join("ns/mnt"));
                }
            }
            Err(io::ErrorKind::NotFound.into())
        };
        let namespace = find().map_err(PlaceError::Find)?;
        // Its number may have become another's meanwhile.
        if monitor.is_alive() {
            Ok(Self { namespace })
        } else {
            Err(PlaceError::Find(io::ErrorKind::NotFound.into()))
        }
    }

    /// Mounts a container's shares at a place, the root file system first.
    pub(super) fn fill(&self, place: PodPlace, shares: &[OpenShare]) -> Result<(), PlaceError> {
        let filled = self.inside(|| fill(place, shares));
        if filled.is_err() {
            // The error that matters is the first.
            let _ = self.clear(place);
        }
        filled
    }

    /// Takes away what is mounted at a place, if anything is.
    pub(super) fn clear(&self, place: PodPlace) -> Result<(), PlaceError> {
        self.inside(|| {
            for name in [place.shares(), place.root()] {
                match unmount(path(&name), UnmountFlags::DETACH) {
                    // Nothing is mounted there.
                    Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                    Err(errno) => return Err(step("Taking a member's files away")(errno)),
                }
            }
            Ok(())
        })
    }

    /// Does something there, in a thread that ends with it.
    fn inside<T: Send>(
        &self,
        act: impl FnOnce() -> Result<T, PlaceError> + Send,
    ) -> Result<T, PlaceError> {
        let enter = || -> io::Result<()> {
            unshare(CloneFlags::CLONE_FS)?;
            Ok(setns(&self.namespace, CloneFlags::CLONE_NEWNS)?)
        };
        let body = || enter().map_err(PlaceError::Enter).and_then(|()| act());
        let ended = thread::scope(|scope| scope.spawn(body).join());
        ended.unwrap_or_else(|_| Err(PlaceError::Enter(io::ErrorKind::Other.into())))
    }
}

fn path(name: &str) -> String {
    format!("/{name}")
}

fn fill(place: PodPlace, shares: &[OpenShare]) -> Result<(), PlaceError> {
    let Some((root, others)) = shares.split_first() else { return Ok(()) };
    attach(&root.tree, &path(&place.root())).map_err(|error| match error {
        PlaceError::Mount { source: Errno::NOENT, .. } => PlaceError::None,
        other => other,
    })?;
    if others.is_empty() {
        return Ok(());
    }
    let folder = tmpfs(others.len())?;
    let target = path(&place.shares());
    attach(&folder, &target)?;
    for (index, share) in (1..).zip(others) {
        make_mount_point(&folder, &index.to_string(), share.kind)?;
        attach(&share.tree, &format!("{target}/{index}"))?;
    }
    let read_only = MountFlags::BIND | MountFlags::RDONLY | HARMLESS_FLAGS;
    mount_remount(&*target, read_only, "").map_err(step("Making the folder of shares read-only"))
}

const HARMLESS_FLAGS: MountFlags =
    MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const HARMLESS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// A folder for mount points, of so many.
fn tmpfs(mount_points: usize) -> Result<OwnedFd, PlaceError> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(step("Opening tmpfs"))?;
    let inodes = (mount_points + 2).to_string();
    for (key, value) in [("size", "4k"), ("nr_inodes", &*inodes), ("mode", "755")] {
        fsconfig_set_string(context.as_fd(), key, value).map_err(step("Configuring tmpfs"))?;
    }
    fsconfig_create(context.as_fd()).map_err(step("Making a tmpfs"))?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, HARMLESS)
        .map_err(step("Mounting a tmpfs"))
}

fn make_mount_point(folder: &OwnedFd, name: &str, kind: ShareKind) -> Result<(), PlaceError> {
    let made = match kind {
        ShareKind::Folder => mkdirat(folder, name, Mode::RWXU),
        ShareKind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(folder, name, flags, Mode::RUSR).map(drop)
        }
    };
    made.map_err(step("Making the mount point of a share"))
}

fn attach(tree: &OwnedFd, target: &str) -> Result<(), PlaceError> {
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(step("Attaching a share"))
}
