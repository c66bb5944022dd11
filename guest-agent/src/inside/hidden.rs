//! Masked and read-only paths, and kernel parameters.

use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsmount, fsopen,
};

use super::failure::{StartError, Step};
use super::mounts::{attach, clone_tree};
use super::root::{Root, is_folder};
use crate::sys::{MountAttributes, mount_setattr};

const NULL_DEVICE: &CStr = c"/dev/null";

/// Hides paths: an empty read-only folder over folders, `/dev/null` over files. Absent ones are
/// skipped.
pub(crate) fn mask(root: &Root, paths: &[String]) -> Result<(), StartError> {
    let mut empty = None;
    let mut masked = HashSet::new();
    for path in paths.iter().filter(|path| masked.insert(path.as_str())) {
        mask_one(root, path, &mut empty).step(|| format!("masking {path}"))?;
    }
    Ok(())
}

/// One empty file system serves all folders: nothing can be written to it, so nothing is shared.
fn mask_one(root: &Root, path: &str, empty: &mut Option<OwnedFd>) -> io::Result<()> {
    let Some(target) = existing(root, path)? else { return Ok(()) };
    if !is_folder(target.as_fd())? {
        let null = clone_tree(CWD, &NULL_DEVICE.to_string_lossy(), false)?;
        return Ok(attach(null.as_fd(), target.as_fd())?);
    }
    match empty {
        Some(mounted) => {
            let copy = clone_tree(mounted.as_fd(), "", false)?;
            attach(copy.as_fd(), target.as_fd())?;
        }
        None => {
            let mounted = empty_folder()?;
            attach(mounted.as_fd(), target.as_fd())?;
            *empty = Some(mounted);
        }
    }
    Ok(())
}

fn empty_folder() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Makes paths read-only with everything below them. Absent ones are skipped.
pub(crate) fn make_readonly(root: &Root, paths: &[String]) -> Result<(), StartError> {
    for path in paths {
        readonly_one(root, path).step(|| format!("making {path} read-only"))?;
    }
    Ok(())
}

fn readonly_one(root: &Root, path: &str) -> io::Result<()> {
    let Some(target) = existing(root, path)? else { return Ok(()) };
    let copy = clone_tree(target.as_fd(), "", true)?;
    let readonly = MountAttributes {
        set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
        ..MountAttributes::default()
    };
    mount_setattr(copy.as_fd(), true, &readonly)?;
    Ok(attach(copy.as_fd(), target.as_fd())?)
}

fn existing(root: &Root, path: &str) -> Result<Option<OwnedFd>, Errno> {
    match root.find(path, OFlags::PATH) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets kernel parameters through the agent's `/proc`: those of a namespace are the caller's own.
pub(crate) fn set_parameters<'p>(
    parameters: impl Iterator<Item = (&'p String, &'p String)>,
) -> Result<(), StartError> {
    let mut parameters = parameters.peekable();
    if parameters.peek().is_none() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(CWD, "/proc/sys", flags, Mode::empty());
    let folder = folder.step(|| "opening /proc/sys".to_owned())?;
    for (key, value) in parameters {
        set_parameter(folder.as_fd(), key, value).step(|| format!("setting {key} to {value:?}"))?;
    }
    Ok(())
}

fn set_parameter(folder: BorrowedFd<'_>, key: &str, value: &str) -> io::Result<()> {
    let file = rustix::fs::openat2(
        folder,
        key.replace('.', "/"),
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )?;
    write_whole(file.as_fd(), value.as_bytes())
}

/// A kernel file takes a value in one write or not at all.
pub(crate) fn write_whole(file: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    let written = rustix::io::retry_on_intr(|| rustix::io::write(file, value))?;
    if written == value.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
