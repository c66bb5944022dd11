//! Device nodes and symbolic links of the container.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cofferdam_protocol::plan::{DeviceKind, DeviceNodePlan};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::failure::{StartError, Step};
use super::mounts::{attach, clone_tree};
use super::root::{Kind, Root};

/// Where the guest keeps nodes of its own, before the process changes its root.
const NODES: &str = "/dev";

/// Makes every node. What exists stays as it is, as with runc.
pub(crate) fn make_nodes(root: &Root, devices: &[DeviceNodePlan]) -> Result<(), StartError> {
    for device in devices {
        make_node(root, device).step(|| format!("making the device {}", device.path))?;
    }
    Ok(())
}

fn make_node(root: &Root, device: &DeviceNodePlan) -> io::Result<()> {
    let (folder, name) = root.parent_of(&device.path)?;
    match mknod(folder.as_fd(), name, device) {
        Err(Errno::EXIST) => Ok(()),
        // A share of the host, or a user namespace: no nodes may be made. Bind one of the guest's.
        Err(Errno::PERM) => bind_node(root, device),
        made => Ok(made?),
    }
}

fn mknod(folder: BorrowedFd<'_>, name: &str, device: &DeviceNodePlan) -> Result<(), Errno> {
    let kind = file_type(device.kind);
    let number = match device.kind {
        DeviceKind::Char | DeviceKind::Block => rustix::fs::makedev(device.major, device.minor),
        DeviceKind::Fifo => 0,
    };
    let mode = Mode::from_raw_mode(device.mode & 0o7777);
    rustix::fs::mknodat(folder, name, kind, mode, number)?;
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// A node of the guest's own, bound onto a file in the container. In a user namespace none can be
/// made, so that it is the one that has the same name and number, with the mode that it has.
fn bind_node(root: &Root, device: &DeviceNodePlan) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(CWD, NODES, flags, Mode::empty())?;
    let name = format!("device-{}", rustix::process::getpid().as_raw_nonzero());
    let node = match mknod(folder.as_fd(), &name, device) {
        Ok(()) => {
            let made = clone_tree(folder.as_fd(), &name, false);
            rustix::fs::unlinkat(&folder, &name, AtFlags::empty())?;
            made?
        }
        Err(Errno::PERM | Errno::ACCESS) => existing_node(folder.as_fd(), device)?,
        Err(error) => return Err(error.into()),
    };
    let target = root.find_or_make(&device.path, Kind::File)?;
    Ok(attach(node.as_fd(), target.as_fd())?)
}

fn existing_node(folder: BorrowedFd<'_>, device: &DeviceNodePlan) -> Result<OwnedFd, Errno> {
    let name = device.path.rsplit('/').next().unwrap_or_default();
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let same_kind = FileType::from_raw_mode(stat.st_mode) == file_type(device.kind);
    if same_kind && stat.st_rdev == rustix::fs::makedev(device.major, device.minor) {
        return clone_tree(folder, name, false);
    }
    Err(Errno::PERM)
}

const fn file_type(kind: DeviceKind) -> FileType {
    match kind {
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
    }
}

/// Makes the symbolic links (link, target) where nothing is.
pub(crate) fn make_links(root: &Root, links: &[(String, String)]) -> Result<(), StartError> {
    for (link, target) in links {
        make_link(root, link, target).step(|| format!("linking {link} to {target}"))?;
    }
    Ok(())
}

fn make_link(root: &Root, link: &str, target: &str) -> Result<(), Errno> {
    let (folder, name) = root.parent_of(link)?;
    match rustix::fs::symlinkat(target, &folder, name) {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}
