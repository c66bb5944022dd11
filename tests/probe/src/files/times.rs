//! Times, as they are set and as they change by themselves.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};

use super::{Outcome, same};

/// To the nanosecond, one without the other, of links and of what they lead to.
pub(super) fn times(folder: &Path) -> Outcome {
    let path = folder.join("file");
    let file = File::create(&path)?;
    let at = |seconds, nanoseconds| SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    let wanted =
        FileTimes::new().set_accessed(at(1000, 123_456_789)).set_modified(at(2000, 987_654_321));
    file.set_times(wanted)?;
    let seen = fs::metadata(&path)?;
    same("accessed", (seen.atime(), seen.atime_nsec()), (1000, 123_456_789))?;
    same("modified", (seen.mtime(), seen.mtime_nsec()), (2000, 987_654_321))?;
    file.set_times(FileTimes::new().set_modified(at(3000, 1)))?;
    let seen = fs::metadata(&path)?;
    same("one without the other", (seen.atime(), seen.mtime()), (1000, 3000))?;
    let changed = (seen.ctime(), seen.ctime_nsec());
    std::thread::sleep(Duration::from_millis(20));
    fs::write(&path, "content")?;
    let seen = fs::metadata(&path)?;
    same("a write is seen in it", seen.mtime() > 3000, true)?;
    same("and is a change", (seen.ctime(), seen.ctime_nsec()) > changed, true)?;
    symlink("file", folder.join("link"))?;
    let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times =
        Timestamps { last_access: omitted, last_modification: Timespec { tv_sec: 5, tv_nsec: 6 } };
    utimensat(CWD, folder.join("link"), &times, AtFlags::SYMLINK_NOFOLLOW)?;
    let link = fs::symlink_metadata(folder.join("link"))?;
    same("a link's own time", (link.mtime(), link.mtime_nsec()), (5, 6))?;
    same("the file's is another", fs::metadata(&path)?.mtime() > 3000, true)?;
    before_1970(&path)
}

fn before_1970(path: &Path) -> Outcome {
    let time = Timespec { tv_sec: -1000, tv_nsec: 500 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::empty())?;
    let seen = fs::metadata(path)?;
    same("long ago", (seen.mtime(), seen.mtime_nsec()), (-1000, 500))
}
