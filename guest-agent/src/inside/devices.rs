//! Device nodes and symbolic links of the container.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use cofferdam_protocol::plan::{DeviceKind, DeviceNodePlan};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::failure::{StartError, Step};
use super::mounts::{attach, clone_tree};
use super::root::{Kind, Root};

/// Makes every node. What exists stays as it is, as with runc.
pub(crate) fn make_nodes(
    root: &Root,
    devices: &[DeviceNodePlan],
    scratch: &str,
) -> Result<(), StartError> {
    for device in devices {
        make_node(root, device, scratch).step(|| format!("making the device {}", device.path))?;
    }
    Ok(())
}

fn make_node(root: &Root, device: &DeviceNodePlan, scratch: &str) -> io::Result<()> {
    let (folder, name) = root.parent_of(&device.path)?;
    match mknod(folder.as_fd(), name, device) {
        Err(Errno::EXIST) => Ok(()),
        // A share of the host: no nodes may be made there. Make it in the guest and bind it.
        Err(Errno::PERM) => bind_node(root, device, scratch),
        made => Ok(made?),
    }
}

fn mknod(folder: BorrowedFd<'_>, name: &str, device: &DeviceNodePlan) -> Result<(), Errno> {
    let kind = match device.kind {
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
    };
    let number = match device.kind {
        DeviceKind::Char | DeviceKind::Block => rustix::fs::makedev(device.major, device.minor),
        DeviceKind::Fifo => 0,
    };
    let mode = Mode::from_raw_mode(device.mode & 0o7777);
    rustix::fs::mknodat(folder, name, kind, mode, number)?;
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// A node in a folder of the guest's own, bound onto a file in the container.
fn bind_node(root: &Root, device: &DeviceNodePlan, scratch: &str) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(CWD, scratch, flags, Mode::empty())?;
    let name = format!("device-{}", rustix::process::getpid().as_raw_nonzero());
    mknod(folder.as_fd(), &name, device)?;
    let bound = clone_tree(folder.as_fd(), &name, false);
    let removed = rustix::fs::unlinkat(&folder, &name, AtFlags::empty());
    let target = root.find_or_make(&device.path, Kind::File)?;
    attach(bound?.as_fd(), target.as_fd())?;
    Ok(removed?)
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
