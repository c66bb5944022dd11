//! Repeats in the guest what the host changed below the bind mounts, so that the guest's kernel
//! forgets what it has cached and inotify tells the containers' programs.
//!
//! ```text
//!  monitor ─ connects ─▶ agent ─ copies itself ─▶ repeater: one change after the other, to the end
//! ```
//!
//! A process of its own: an operation on a folder waits for whoever holds the folder, which may be
//! a container, and the agent waits for no container. The server knows it by its id and lets it
//! change nothing ([`cofferdam_protocol::change`]).
//!
//! Trusted: the changes come from the host. Hostile: the containers, who may do to the same folders
//! what they like meanwhile. What cannot be repeated is left.

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use cofferdam_protocol::bounds::MAX_CHANGE_BYTES;
use cofferdam_protocol::change::{Change, ChangeEvent, Name, Place};
use cofferdam_protocol::frame;
use cofferdam_protocol::plan::{ContainerPlan, MountSource};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags, Timespec,
    Timestamps, UTIME_NOW, UTIME_OMIT, fstat, mkdirat, mknodat, openat, openat2, renameat_with,
    statx, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::layout::Layout;
use crate::sys;

/// Starts the process that repeats what comes on a connection from the host.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn start(connection: impl AsFd, layout: &Layout) -> std::io::Result<()> {
    let connection = connection.as_fd().try_clone_to_owned()?;
    let cgroup = File::open(&layout.cgroups)?;
    let shares = Path::new(&layout.shares);
    sys::spawn(0, cgroup.as_fd(), || repeat_all(connection, shares))?;
    Ok(())
}

/// Has the shares mounted here before a container's mount namespace is copied from this one: each
/// is a file system of its own that the kernel mounts when it is first entered, and in a namespace
/// where it was not entered before it would be another, with inodes that the repeater never sees.
pub(crate) fn enter_shares(layout: &Layout, plan: &ContainerPlan) {
    let shares = layout.shares_of(plan);
    for mount in &plan.mounts {
        if let MountSource::Share { index, folder: true, .. } = mount.source {
            let path = Path::new(&shares).join(index.to_string());
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            // What is wrong with it is said where it is mounted.
            let _ = openat(CWD, path, flags, Mode::empty());
        }
    }
}

/// The new process, until the host hangs up.
fn repeat_all(connection: OwnedFd, shares: &Path) -> Infallible {
    let ended = prepare(&connection).and_then(|()| serve(&mut File::from(connection), shares));
    sys::exit_now(i32::from(ended.is_err()))
}

fn prepare(connection: &OwnedFd) -> std::io::Result<()> {
    // Of the copy's other descriptors some would keep a container's streams open.
    sys::close_all_but(&mut [connection.as_raw_fd()])?;
    Ok(rustix::io::ioctl_fionbio(connection, false)?)
}

fn serve(connection: &mut (impl Read + Write), shares: &Path) -> std::io::Result<()> {
    connection.write_all(&std::process::id().to_le_bytes())?;
    loop {
        let change: Change =
            frame::read_frame(&mut *connection, MAX_CHANGE_BYTES).map_err(std::io::Error::other)?;
        // A container may have been quicker, or have a folder in the way.
        let _ = repeat(shares, &change);
        connection.write_all(&[1])?;
    }
}

/// Does again what the host did.
pub(crate) fn repeat(shares: &Path, change: &Change) -> Result<(), Errno> {
    let folder = find(shares, &change.folder)?;
    match &change.event {
        ChangeEvent::Appeared { name, mode } => make(&folder, name, *mode),
        ChangeEvent::Vanished { name, is_folder } => {
            see(&folder, name)?;
            let flags = if *is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            unlinkat(&folder, name.as_slice(), flags)
        }
        ChangeEvent::Moved { from, to_folder, to } => {
            see(&folder, from)?;
            let target = find(shares, to_folder)?;
            renameat_with(&folder, from.as_slice(), &target, to.as_slice(), RenameFlags::empty())
        }
        ChangeEvent::Modified { name } => touch(&folder, name, UTIME_OMIT),
        ChangeEvent::Attributes { name } => touch(&folder, name, UTIME_NOW),
        ChangeEvent::Written { name } => write(&folder, name),
    }
}

/// The folder at a place, if it is still the same.
fn find(shares: &Path, place: &Place) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, shares, flags, Mode::empty())?;
    if place.path.is_empty() {
        return Ok(root);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let folder = openat2(&root, place.path.as_slice(), flags, Mode::empty(), resolve)?;
    if fstat(&folder)?.st_ino == place.inode { Ok(folder) } else { Err(Errno::STALE) }
}

/// Made by whom it does not matter: it is there already.
fn make(folder: &OwnedFd, name: &Name, mode: u32) -> Result<(), Errno> {
    match FileType::from_raw_mode(mode) {
        FileType::Directory => mkdirat(folder, name.as_slice(), Mode::RWXU),
        FileType::Symlink => symlinkat(c"appeared", folder, name.as_slice()),
        kind => mknodat(folder, name.as_slice(), kind, Mode::RUSR, 0),
    }
}

/// Has the kernel look a name up now: what is to be made must not be there, so this cannot be
/// answered from memory.
fn see(folder: &OwnedFd, name: &Name) -> Result<(), Errno> {
    match mknodat(folder, name.as_slice(), FileType::RegularFile, Mode::RUSR, 0) {
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => Err(Errno::NOENT),
    }
}

/// Sets the time of the last change, which is one of content, or both times, which is one of
/// attributes. The look before makes the kernel forget content that is no longer the file's.
fn touch(folder: &OwnedFd, name: &Name, accessed: i64) -> Result<(), Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    statx(folder, name.as_slice(), flags | AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS)?;
    let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    let times = Timestamps { last_access: time(accessed), last_modification: time(UTIME_NOW) };
    utimensat(folder, name.as_slice(), &times, flags)
}

/// Opens a file for writing and closes it.
fn write(folder: &OwnedFd, name: &Name) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(folder, name.as_slice(), flags, Mode::empty()).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn change(folder: &Path, event: ChangeEvent) -> Change {
        let inode = fs::metadata(folder.join("1")).unwrap().ino();
        Change { folder: Place { path: b"1".to_vec(), inode }, event }
    }

    /// On a file system that does not play along it has the effect that the kernel is to tell of.
    #[test]
    fn a_change_is_repeated_by_the_operation_that_it_was() {
        let shares = tempfile::tempdir().unwrap();
        fs::create_dir(shares.path().join("1")).unwrap();
        let at = |name: &str| shares.path().join("1").join(name);
        let appeared = |name: &str, kind: FileType| ChangeEvent::Appeared {
            name: name.into(),
            mode: kind.as_raw_mode(),
        };
        for (name, kind) in [
            ("file", FileType::RegularFile),
            ("folder", FileType::Directory),
            ("link", FileType::Symlink),
            ("pipe", FileType::Fifo),
        ] {
            repeat(shares.path(), &change(shares.path(), appeared(name, kind))).unwrap();
            let seen = fs::symlink_metadata(at(name)).unwrap().mode();
            assert_eq!(FileType::from_raw_mode(seen), kind, "{name}");
        }
        let vanished = ChangeEvent::Vanished { name: "folder".into(), is_folder: true };
        repeat(shares.path(), &change(shares.path(), vanished)).unwrap();
        assert!(!at("folder").exists());
        let to_folder = change(shares.path(), ChangeEvent::Modified { name: Vec::new() }).folder;
        let moved = ChangeEvent::Moved { from: "file".into(), to_folder, to: "new".into() };
        repeat(shares.path(), &change(shares.path(), moved)).unwrap();
        assert!(at("new").exists() && !at("file").exists());
    }

    #[test]
    fn a_folder_that_is_another_by_now_is_left() {
        let shares = tempfile::tempdir().unwrap();
        fs::create_dir(shares.path().join("1")).unwrap();
        let event = ChangeEvent::Written { name: "file".into() };
        let other = Change { folder: Place { path: b"1".to_vec(), inode: 1 }, event };
        assert_eq!(repeat(shares.path(), &other), Err(Errno::STALE));
    }

    #[test]
    fn nothing_outside_the_shares_is_reached() {
        let shares = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", shares.path().join("link")).unwrap();
        for path in ["..", "/etc", "link"] {
            let event = ChangeEvent::Written { name: "passwd".into() };
            let place = Place { path: path.into(), inode: fs::metadata("/etc").unwrap().ino() };
            assert!(repeat(shares.path(), &Change { folder: place, event }).is_err(), "{path}");
        }
    }
}
