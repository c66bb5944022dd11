//! What the guest learns of a file, and how it changes that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use fuse_backend_rs::api::filesystem::SetattrValid;
use rustix::fs::{
    AtFlags, Gid, Mode, Statx, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
    chmodat, chownat, statx, utimensat,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::{stand_in, sys};
use crate::saved::{FileTime, FileVersion};

/// Set-user-ID and set-group-ID.
pub(super) const SET_ID: u32 = 0o6000;

/// Which file it is, on this host. The mount is part of it: one file in two shares, of which one
/// is read-only, is two to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileKey {
    inode: u64,
    device: u64,
    pub(super) mount: u64,
}

/// Changes when a file's content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    modified: (i64, u32),
    changed: (i64, u32),
    size: u64,
}

impl From<Version> for FileVersion {
    fn from(version: Version) -> Self {
        let time = |(seconds, nanoseconds)| FileTime { seconds, nanoseconds };
        Self {
            modified: time(version.modified),
            changed: time(version.changed),
            size: version.size,
        }
    }
}

impl From<FileVersion> for Version {
    fn from(saved: FileVersion) -> Self {
        let time = |time: FileTime| (time.seconds, time.nanoseconds);
        Self { modified: time(saved.modified), changed: time(saved.changed), size: saved.size }
    }
}

/// Everything the kernel says about an open file. What stands in for a device is that device.
pub(super) fn look(file: impl AsFd) -> io::Result<Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let seen = statx(&file, c"", flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    Ok(stand_in::seen_as(file, seen))
}

pub(super) fn key(seen: &Statx) -> FileKey {
    FileKey {
        inode: seen.stx_ino,
        device: libc::makedev(seen.stx_dev_major, seen.stx_dev_minor),
        mount: seen.stx_mnt_id,
    }
}

pub(super) fn version(seen: &Statx) -> Version {
    Version {
        modified: (seen.stx_mtime.tv_sec, seen.stx_mtime.tv_nsec),
        changed: (seen.stx_ctime.tv_sec, seen.stx_ctime.tv_nsec),
        size: seen.stx_size,
    }
}

/// The same as `stat` has it. Sizes beyond what a `stat` can hold do not exist.
pub(super) fn stat(seen: &Statx) -> libc::stat64 {
    let mut stat = sys::blank_stat();
    stat.st_dev = libc::makedev(seen.stx_dev_major, seen.stx_dev_minor);
    stat.st_ino = seen.stx_ino;
    stat.st_mode = seen.stx_mode.into();
    stat.st_nlink = seen.stx_nlink.into();
    stat.st_uid = seen.stx_uid;
    stat.st_gid = seen.stx_gid;
    stat.st_rdev = libc::makedev(seen.stx_rdev_major, seen.stx_rdev_minor);
    stat.st_size = seen.stx_size.cast_signed();
    stat.st_blksize = seen.stx_blksize.into();
    stat.st_blocks = seen.stx_blocks.cast_signed();
    stat.st_atime = seen.stx_atime.tv_sec;
    stat.st_atime_nsec = seen.stx_atime.tv_nsec.into();
    stat.st_mtime = seen.stx_mtime.tv_sec;
    stat.st_mtime_nsec = seen.stx_mtime.tv_nsec.into();
    stat.st_ctime = seen.stx_ctime.tv_sec;
    stat.st_ctime_nsec = seen.stx_ctime.tv_nsec.into();
    stat
}

/// The file whose attributes change: an `O_PATH` descriptor, reached through `/proc/self/fd`
/// where the kernel takes no such descriptor.
pub(super) struct Subject<'a> {
    pub(super) descriptors: &'a OwnedFd,
    pub(super) file: &'a OwnedFd,
}

impl Subject<'_> {
    /// Changes all that `valid` names but the size.
    pub(super) fn change(&self, wanted: &libc::stat64, valid: SetattrValid) -> io::Result<()> {
        let name = DecInt::from_fd(self.file);
        if valid.contains(SetattrValid::MODE) {
            let mode = Mode::from_raw_mode(wanted.st_mode & 0o7777);
            chmodat(self.descriptors, name.as_c_str(), mode, AtFlags::empty())?;
        }
        if valid.intersects(SetattrValid::UID | SetattrValid::GID) {
            let uid = valid.contains(SetattrValid::UID).then_some(wanted.st_uid);
            let gid = valid.contains(SetattrValid::GID).then_some(wanted.st_gid);
            if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
                return Err(Errno::INVAL.into());
            }
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            chownat(self.file, c"", uid, gid, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if valid.intersects(SetattrValid::ATIME | SetattrValid::MTIME) {
            let times = Timestamps {
                last_access: time(
                    valid.contains(SetattrValid::ATIME_NOW),
                    valid.contains(SetattrValid::ATIME),
                    (wanted.st_atime, wanted.st_atime_nsec),
                ),
                last_modification: time(
                    valid.contains(SetattrValid::MTIME_NOW),
                    valid.contains(SetattrValid::MTIME),
                    (wanted.st_mtime, wanted.st_mtime_nsec),
                ),
            };
            utimensat(self.descriptors, name.as_c_str(), &times, AtFlags::empty())?;
        }
        Ok(())
    }
}

fn time(now: bool, given: bool, (seconds, nanoseconds): (i64, i64)) -> Timespec {
    match (now, given) {
        (true, _) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        (false, true) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
        (false, false) => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    }
}
