//! The container's mounts, as its plan lists them.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use cofferdam_protocol::plan::{MountPlan, MountSource};
use rustix::fs::{CWD, FileType, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsmount, fsopen, move_mount, open_tree,
};

use super::copy_up;
use super::failure::{StartError, Step};
use super::root::{Kind, Root};
use crate::sys::{MountAttributes, mount_setattr};

/// `linux/mount.h`.
const MOUNT_ATTR_RDONLY: u64 = 0x1;
/// The bits that say how access times are kept.
const MOUNT_ATTR__ATIME: u64 = 0x70;

/// `mount(2)` flags and the `MOUNT_ATTR_*` that mean the same, from `linux/mount.h`.
const ATTRIBUTES: [(u64, u64); 8] = [
    (libc::MS_RDONLY, MOUNT_ATTR_RDONLY),
    (libc::MS_NOSUID, 0x2),
    (libc::MS_NODEV, 0x4),
    (libc::MS_NOEXEC, 0x8),
    (libc::MS_NOATIME, 0x10),
    (libc::MS_STRICTATIME, 0x20),
    (libc::MS_NODIRATIME, 0x80),
    (MS_NOSYMFOLLOW, 0x20_0000),
];

/// `MS_NOSYMFOLLOW`, which libc does not name.
const MS_NOSYMFOLLOW: u64 = 0x100;

/// Makes every mount in order. `/dev` is left writable for the devices: the caller then calls
/// [`finish`].
pub(crate) fn make_all(
    root: &Root,
    shares: BorrowedFd<'_>,
    mounts: &[MountPlan],
) -> Result<(), StartError> {
    for mount in mounts {
        make(root, shares, mount)?;
    }
    Ok(())
}

/// Makes read-only what could not be so before.
pub(crate) fn finish(root: &Root, mounts: &[MountPlan]) -> Result<(), StartError> {
    for mount in mounts.iter().filter(|mount| is_late_readonly(mount)) {
        let step = || format!("making {} read-only", mount.target);
        let target = root.find(&mount.target, OFlags::PATH).step(step)?;
        set_readonly(target.as_fd()).step(step)?;
    }
    Ok(())
}

/// The root of a mount becomes read-only, the mounts below it do not.
pub(crate) fn set_readonly(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = MountAttributes { set: MOUNT_ATTR_RDONLY, ..Default::default() };
    mount_setattr(mount, false, &attributes)
}

fn is_late_readonly(mount: &MountPlan) -> bool {
    mount.flags & libc::MS_RDONLY != 0
        && mount.target.trim_end_matches('/') == "/dev"
        && matches!(mount.source, MountSource::Filesystem { .. })
}

fn make(root: &Root, shares: BorrowedFd<'_>, mount: &MountPlan) -> Result<(), StartError> {
    let what = match &mount.source {
        MountSource::Share { index, .. } => format!("share {index}"),
        MountSource::Inside { path, .. } => path.clone(),
        MountSource::Filesystem { fstype, .. } => fstype.clone(),
        MountSource::Cgroup => "cgroup2".to_owned(),
    };
    let step = || format!("mounting {what} at {}", mount.target);
    let kind = match &mount.source {
        MountSource::Share { folder: false, .. } => Kind::File,
        MountSource::Inside { path, .. } => kind_of(root, path).step(step)?,
        _ => Kind::Folder,
    };
    if let MountSource::Filesystem { fstype, .. } = &mount.source {
        refuse_link(root, fstype, &mount.target)?;
    }
    let was_there = root.find(&mount.target, OFlags::PATH).is_ok();
    let target = root.find_or_make(&mount.target, kind).step(step)?;
    match &mount.source {
        MountSource::Share { index, recursive, .. } => {
            bind(shares, &index.to_string(), *recursive, mount.flags, target.as_fd()).step(step)?;
        }
        MountSource::Inside { path, recursive } => {
            let source = root.find(path, OFlags::PATH).step(step)?;
            bind(source.as_fd(), "", *recursive, mount.flags, target.as_fd()).step(step)?;
        }
        MountSource::Filesystem { fstype, source, data, copy_up } => {
            let flags = mount.flags & !if is_late_readonly(mount) { libc::MS_RDONLY } else { 0 };
            let data = match fstype.as_str() {
                "tmpfs" if was_there => with_mode_of(target.as_fd(), data).step(step)?,
                _ => data.clone(),
            };
            let new = FilesystemMount { fstype, source, data: &data, flags, copy_up: *copy_up };
            new.make(root, &mount.target, target.as_fd()).step(step)?;
        }
        MountSource::Cgroup => {
            own_groups(mount.flags, target.as_fd()).step(step)?;
        }
    }
    adjust(root, mount).step(step)
}

fn kind_of(root: &Root, path: &str) -> Result<Kind, Errno> {
    let stat = rustix::fs::fstat(root.find(path, OFlags::PATH)?)?;
    let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(if is_folder { Kind::Folder } else { Kind::File })
}

/// A tmpfs for which no mode is given has that of the folder below it, as with runc.
fn with_mode_of(folder: BorrowedFd<'_>, data: &str) -> io::Result<String> {
    if data.split(',').any(|option| option.starts_with("mode=")) {
        return Ok(data.to_owned());
    }
    let mode = rustix::fs::fstat(folder)?.st_mode & 0o7777;
    let separator = if data.is_empty() { "" } else { "," };
    Ok(format!("{data}{separator}mode={mode:04o}"))
}

/// What is masked and made read-only later is found by its usual name: an image that has a link
/// there could lead that elsewhere.
fn refuse_link(root: &Root, fstype: &str, target: &str) -> Result<(), StartError> {
    if !matches!(fstype, "proc" | "sysfs") || !root.is_link(target) {
        return Ok(());
    }
    let text = format!("filesystem {fstype:?} must be mounted on ordinary directory: {target}");
    Err(StartError::Reported(text))
}

/// Recursive attributes and propagation, on the mount that is now at the target.
fn adjust(root: &Root, mount: &MountPlan) -> io::Result<()> {
    let recursive = mount.recursive_attributes | mount.recursive_cleared != 0;
    if !recursive && mount.propagation.is_empty() {
        return Ok(());
    }
    let mounted = root.find(&mount.target, OFlags::PATH)?;
    if recursive {
        let attributes = MountAttributes {
            set: mount.recursive_attributes,
            clear: mount.recursive_cleared,
            ..MountAttributes::default()
        };
        mount_setattr(mounted.as_fd(), true, &attributes)?;
    }
    propagate(mounted.as_fd(), mount)
}

fn propagate(mounted: BorrowedFd<'_>, mount: &MountPlan) -> io::Result<()> {
    mount.propagation.iter().try_for_each(|&flags| set_propagation(mounted, flags))
}

/// Sets the mounts' own propagation again.
pub(crate) fn propagate_all(root: &Root, mounts: &[MountPlan]) -> Result<(), StartError> {
    for mount in mounts.iter().filter(|mount| !mount.propagation.is_empty()) {
        let step = || format!("setting the propagation of {}", mount.target);
        let mounted = root.find(&mount.target, OFlags::PATH).step(step)?;
        propagate(mounted.as_fd(), mount).step(step)?;
    }
    Ok(())
}

/// `MS_PRIVATE` and its like, with `MS_REC` for the whole tree, on a mount's root.
pub(crate) fn set_propagation(mount: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    let attributes = MountAttributes { propagation: flags & !libc::MS_REC, ..Default::default() };
    mount_setattr(mount, flags & libc::MS_REC != 0, &attributes)
}

fn bind(
    shares: BorrowedFd<'_>,
    name: &str,
    recursive: bool,
    flags: u64,
    target: BorrowedFd<'_>,
) -> io::Result<()> {
    let tree = clone_tree(shares, name, recursive)?;
    let attributes = bind_attributes(flags);
    if attributes.set != 0 {
        mount_setattr(tree.as_fd(), false, &attributes)?;
    }
    attach(tree.as_fd(), target)?;
    Ok(())
}

/// A detached copy of the mount at a path, or of what an open file is (with an empty path).
pub(crate) fn clone_tree(
    folder: BorrowedFd<'_>,
    path: &str,
    recursive: bool,
) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(folder, path, flags)
}

/// Attaches a detached mount on what `target` is.
pub(crate) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

/// The attributes of a bind mount with these `mount(2)` flags.
fn bind_attributes(flags: u64) -> MountAttributes {
    const ATIME: u64 = libc::MS_NOATIME | libc::MS_STRICTATIME | libc::MS_RELATIME;
    let mut attributes = MountAttributes::default();
    for (flag, attribute) in ATTRIBUTES {
        if flags & flag != 0 {
            attributes.set |= attribute;
        }
    }
    if flags & ATIME != 0 {
        attributes.clear = MOUNT_ATTR__ATIME;
    }
    attributes
}

struct FilesystemMount<'a> {
    fstype: &'a str,
    source: &'a str,
    data: &'a str,
    flags: u64,
    copy_up: bool,
}

impl FilesystemMount<'_> {
    fn make(&self, root: &Root, path: &str, target: BorrowedFd<'_>) -> io::Result<()> {
        if !self.copy_up {
            let made = filesystem(self.fstype, self.source, self.data, self.flags, target);
            return match made {
                // In a user namespace that does not own the network: the guest's own, as runc has it.
                Err(error) if is_refused(&error) && self.fstype == "sysfs" => {
                    bind_sysfs(self.flags, target)
                }
                made => made,
            };
        }
        let flags = self.flags & !libc::MS_RDONLY;
        filesystem(self.fstype, self.source, self.data, flags, target)?;
        // `target` was opened before: it still is the folder below the new mount.
        let mounted = root.find(path, OFlags::PATH)?;
        copy_up::copy_folder(target, mounted.as_fd())?;
        if self.flags & libc::MS_RDONLY != 0 { set_readonly(mounted.as_fd()) } else { Ok(()) }
    }
}

fn is_refused(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

fn bind_sysfs(flags: u64, target: BorrowedFd<'_>) -> io::Result<()> {
    let tree = clone_tree(CWD, "/sys", true)?;
    mount_setattr(tree.as_fd(), true, &bind_attributes(flags))?;
    Ok(attach(tree.as_fd(), target)?)
}

/// The control groups from the container's own on. Over the guest's, where those have come along with
/// its `/sys`: `mount(2)` would refuse the same file system twice in one place.
fn own_groups(flags: u64, target: BorrowedFd<'_>) -> io::Result<()> {
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let (close, none) = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
    let mounted = fsmount(context.as_fd(), close, none)?;
    mount_setattr(mounted.as_fd(), false, &bind_attributes(flags))?;
    Ok(attach(mounted.as_fd(), target)?)
}

/// `mount(2)` at what `target` is, through the agent's own `/proc`.
fn filesystem(
    fstype: &str,
    source: &str,
    data: &str,
    flags: u64,
    target: BorrowedFd<'_>,
) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    let flags = u32::try_from(flags).map_err(|_| Errno::INVAL)?;
    let data = CString::new(data)?;
    let data = (!data.is_empty()).then_some(data.as_c_str());
    rustix::mount::mount(source, path, fstype, MountFlags::from_bits_retain(flags), data)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_a_bind_become_attributes() {
        let attributes = bind_attributes(libc::MS_RDONLY | libc::MS_NODEV | libc::MS_NOATIME);
        let expected = MOUNT_ATTR_RDONLY | 0x4 | 0x10;
        assert_eq!(attributes.set, expected);
        assert_eq!(attributes.clear, MOUNT_ATTR__ATIME);
    }

    #[test]
    fn a_plain_bind_changes_nothing() {
        let attributes = bind_attributes(libc::MS_BIND | libc::MS_REC);
        assert_eq!((attributes.set, attributes.clear), (0, 0));
    }
}
