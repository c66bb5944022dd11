//! `tmpcopyup`: a tmpfs begins with a copy of the folder that it hides.
//!
//! Owners, modes, times and extended attributes are kept where the new file system can; hard links
//! become files of their own; sockets are left out, as runc does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, openat,
};
use rustix::io::Errno;

/// Deeper trees are an error instead of a stack overflow. Linux paths end at 4096 bytes.
const MAX_DEPTH: u32 = 256;
const COPY_BYTES: usize = 64 << 10;
const NOFOLLOW: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// Copies the contents and the attributes of a folder.
pub(crate) fn copy_folder(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = openat(from, ".", flags, Mode::empty())?;
    let to = openat(to, ".", flags, Mode::empty())?;
    copy_contents(from.as_fd(), to.as_fd(), MAX_DEPTH)
}

fn copy_contents(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
    let depth = depth.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, depth)?;
        }
    }
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    Ok(rustix::fs::futimens(to, &times(&stat))?)
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    depth: u32,
) -> io::Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, mode)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | NOFOLLOW;
            let from = openat(from, name, flags, Mode::empty())?;
            let to = openat(to, name, flags, Mode::empty())?;
            return copy_contents(from.as_fd(), to.as_fd(), depth);
        }
        FileType::RegularFile => copy_file(from, to, name, mode)?,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target, to, name)?;
        }
        FileType::Socket | FileType::Unknown => return Ok(()),
        kind => rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?,
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        // chown clears the set-user-id bit.
        rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn copy_file(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    mode: Mode,
) -> io::Result<()> {
    let from = openat(from, name, OFlags::RDONLY | NOFOLLOW, Mode::empty())?;
    let to = openat(to, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | NOFOLLOW, mode)?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = rustix::io::retry_on_intr(|| rustix::io::read(&from, buffer.as_mut_slice()))?;
        let mut rest = buffer.get(..count).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&to, rest))?;
            rest = rest.get(written..).unwrap_or_default();
        }
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_tree_is_copied_with_its_attributes() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("inner")).unwrap();
        fs::write(from.path().join("inner/file"), "text").unwrap();
        fs::set_permissions(from.path().join("inner/file"), fs::Permissions::from_mode(0o4711))
            .unwrap();
        symlink("inner/file", from.path().join("link")).unwrap();
        let open = |path| fs::File::open(path).unwrap();
        copy_folder(open(from.path()).as_fd(), open(to.path()).as_fd()).unwrap();

        assert_eq!(fs::read_to_string(to.path().join("link")).unwrap(), "text");
        let copied = fs::metadata(to.path().join("inner/file")).unwrap();
        let original = fs::metadata(from.path().join("inner/file")).unwrap();
        assert_eq!(copied.mode(), original.mode());
        assert_eq!(copied.mtime_nsec(), original.mtime_nsec());
    }
}
