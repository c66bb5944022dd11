//! Masked paths, made inside the container's root: a file is covered by `/dev/null`, a folder by an
//! empty folder that cannot be written to. All folders have the same one over them, as with runc:
//! a container costs one file system for it, however many paths it masks.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsmount, fsopen, move_mount, open_tree,
};

/// Covers these paths; those that are not there need it not.
pub(super) fn mask(paths: &[String]) -> io::Result<()> {
    let mut folder = None;
    paths.iter().try_for_each(|path| {
        mask_one(Path::new(path), &mut folder)
            .map_err(|e| io::Error::new(e.kind(), format!("mask {path}: {e}")))
    })
}

fn mask_one(path: &Path, folder: &mut Option<OwnedFd>) -> io::Result<()> {
    let target = match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other?,
    };
    let is_folder = kind(&rustix::fs::fstat(&target)?) == FileType::Directory;
    let cover = match (is_folder, folder.as_ref()) {
        (false, _) => clone(&null_device()?)?,
        (true, Some(first)) => clone(first)?,
        (true, None) => empty_folder()?,
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&cover, "", &target, "", flags)?;
    if is_folder && folder.is_none() {
        *folder = Some(cover);
    }
    Ok(())
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn clone(mount: &impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(mount, "", flags)?)
}

/// The device, and not what an image or a racing process has put in its place.
fn null_device() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let device = rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&device)?;
    if kind(&stat) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 3) {
        return Ok(device);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "/dev/null is not the null device"))
}

fn empty_folder() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_create(&context)?;
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, read_only)?)
}
