//! Locks of two processes: POSIX's on records, and `flock`'s on files.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::libc;

use super::{Outcome, could, role, same};

fn opened(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn record(kind: i32, start: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: 10,
        l_pid: 0,
    }
}

/// A record is one process's at a time, and free again when that says so, or ends.
pub(super) fn record_locks(folder: &Path) -> Outcome {
    let path = folder.join("file");
    let file = opened(&path)?;
    fcntl(&file, FcntlArg::F_SETLK(&record(libc::F_WRLCK, 0)))?;
    same("the other gets it", could(&mut role("record-lock", &path))?, false)?;
    fcntl(&file, FcntlArg::F_SETLK(&record(libc::F_UNLCK, 0)))?;
    fcntl(&file, FcntlArg::F_SETLK(&record(libc::F_WRLCK, 100)))?;
    same("the other gets it when it is free", could(&mut role("record-lock", &path))?, true)?;
    fcntl(&file, FcntlArg::F_SETLK(&record(libc::F_WRLCK, 0)))?;
    // Closing any descriptor of the file frees the process's locks.
    drop(opened(&path)?);
    same("the other gets it after a close", could(&mut role("record-lock", &path))?, true)
}

/// The other process of the case above.
pub(super) fn take_record(path: &Path) -> io::Result<()> {
    let file = opened(path)?;
    fcntl(&file, FcntlArg::F_SETLK(&record(libc::F_WRLCK, 5)))?;
    Ok(())
}

/// An open file has the lock, and everyone who has the open file.
pub(super) fn whole_file_locks(folder: &Path) -> Outcome {
    let path = folder.join("file");
    let taken = |how| Flock::lock(opened(&path)?, how).map_err(|(_, errno)| io::Error::from(errno));
    let lock = taken(FlockArg::LockExclusive)?;
    same("the other gets it", could(&mut role("whole-lock", &path))?, false)?;
    drop(lock);
    same("the other gets it when it is free", could(&mut role("whole-lock", &path))?, true)?;
    let _first = taken(FlockArg::LockShared)?;
    let _second = taken(FlockArg::LockSharedNonblock)?;
    same("the other gets what is shared", could(&mut role("whole-lock", &path))?, false)
}

/// The other process of the case above.
pub(super) fn take_whole(path: &Path) -> io::Result<()> {
    let taken = Flock::lock(opened(path)?, FlockArg::LockExclusiveNonblock);
    taken.map(drop).map_err(|(_, errno)| errno.into())
}
