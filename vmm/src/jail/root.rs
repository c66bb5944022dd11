//! The roots that the threads see: an empty one, and for the file server one with the shares.
//!
//! Everything is done on descriptors (`fsopen`, `move_mount`): no path of the host is opened but
//! `/proc/self/smaps`, and that before the host's tree is gone.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use cofferdam_protocol::vm_config::{PodPlace, ShareKind};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change,
    mount_remount, move_mount, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

/// Where the file server's own `/proc` is for a moment.
const PROC: &str = "proc";

/// Which step towards a root failed.
#[derive(Debug, thiserror::Error)]
#[error("{step} failed")]
pub struct RootError {
    step: &'static str,
    source: Errno,
}

fn step(step: &'static str) -> impl Fn(Errno) -> RootError {
    move |source| RootError { step, source }
}

/// What is taken along from the host's tree into the empty root.
#[derive(Debug)]
pub struct Luggage {
    /// A detached `/proc` of the monitor's own pid namespace, with nothing but processes in it.
    pub proc: OwnedFd,
    /// The monitor's own memory map.
    pub smaps: File,
}

/// Leaves the host's tree for an empty, read-only root. For the whole process, while it has one
/// thread.
///
/// # Errors
/// Names the step that failed.
pub fn leave_host() -> Result<Luggage, RootError> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(step("Making the mounts private"))?;
    // Made here: a new /proc needs one that is visible.
    let proc = detached_proc()?;
    let smaps = openat(CWD, "/proc/self/smaps", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(step("Opening the memory map"))?;
    let root = detached_tmpfs("1", MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    enter(&root)?;
    Ok(Luggage { proc, smaps: smaps.into() })
}

/// Makes a root of the shares and the empty places alone, in a mount namespace of the calling thread's own. `/proc` is
/// visible in it until [`SharesRoot::seal`].
///
/// # Errors
/// Names the step that failed.
pub fn enter_shares(
    shares: Vec<(OwnedFd, ShareKind)>,
    places: u8,
    proc: &OwnedFd,
) -> Result<SharesRoot, RootError> {
    super::sys::unshare_mounts().map_err(step("Making a mount namespace"))?;
    // One inode for each mount point, and some for the root and `/proc`.
    let inodes = (shares.len() + 2 * usize::from(places) + 4).to_string();
    let root = detached_tmpfs(&inodes, MountAttrFlags::empty())?;
    enter(&root)?;
    mkdirat(&root, PROC, Mode::RWXU).map_err(step("Making the mount point of /proc"))?;
    attach(proc, PROC)?;
    for (index, (tree, kind)) in shares.iter().enumerate() {
        let name = index.to_string();
        make_mount_point(&root, &name, *kind)?;
        attach(tree, &name)?;
    }
    for place in (0..places).map(PodPlace) {
        make_mount_point(&root, &place.root(), ShareKind::Folder)?;
        make_mount_point(&root, &place.shares(), ShareKind::Folder)?;
    }
    Ok(SharesRoot { root })
}

/// The file server's root, not sealed yet.
#[derive(Debug)]
pub struct SharesRoot {
    root: OwnedFd,
}

impl SharesRoot {
    /// Takes `/proc` away and makes the root itself read-only, so that the guest cannot fill the
    /// host's memory with files beside the shares.
    ///
    /// # Errors
    /// Names the step that failed.
    pub fn seal(self) -> Result<(), RootError> {
        unmount(PROC, UnmountFlags::DETACH).map_err(step("Taking /proc away"))?;
        unlinkat(&self.root, PROC, AtFlags::REMOVEDIR)
            .map_err(step("Removing the mount point of /proc"))?;
        let read_only = MountFlags::BIND | MountFlags::RDONLY | HARMLESS_FLAGS;
        mount_remount("/", read_only, "").map_err(step("Making the root read-only"))
    }
}

/// What both roots are mounted with.
const HARMLESS_FLAGS: MountFlags =
    MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const HARMLESS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

fn detached_tmpfs(inodes: &str, attributes: MountAttrFlags) -> Result<OwnedFd, RootError> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(step("Opening tmpfs"))?;
    for (key, value) in [("size", "4k"), ("nr_inodes", inodes), ("mode", "755")] {
        fsconfig_set_string(context.as_fd(), key, value).map_err(step("Configuring tmpfs"))?;
    }
    fsconfig_create(context.as_fd()).map_err(step("Making a tmpfs"))?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, HARMLESS | attributes)
        .map_err(step("Mounting a tmpfs"))
}

fn detached_proc() -> Result<OwnedFd, RootError> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).map_err(step("Opening proc"))?;
    // Without it /proc/sys would be there, and the host's parameters are root's to write.
    fsconfig_set_string(context.as_fd(), "subset", "pid").map_err(step("Configuring proc"))?;
    fsconfig_create(context.as_fd()).map_err(step("Making a proc"))?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, HARMLESS)
        .map_err(step("Mounting a proc"))
}

/// Makes a detached mount the root and lets go of the one before.
fn enter(root: &OwnedFd) -> Result<(), RootError> {
    attach(root, "/")?;
    fchdir(root).map_err(step("Entering the new root"))?;
    pivot_root(".", ".").map_err(step("Pivoting to the new root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(step("Letting go of the old root"))?;
    chdir("/").map_err(step("Changing to the new root"))
}

fn attach(tree: &OwnedFd, target: &str) -> Result<(), RootError> {
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(step("Attaching a mount"))
}

fn make_mount_point(root: &OwnedFd, name: &str, kind: ShareKind) -> Result<(), RootError> {
    let made = match kind {
        ShareKind::Folder => mkdirat(root, name, Mode::RWXU),
        ShareKind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(root, name, flags, Mode::RUSR).map(drop)
        }
    };
    made.map_err(step("Making the mount point of a share"))
}
