//! The socket on which a container's first process waits for `start`, in the state folder: only who
//! may enter that may start the container.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Its name.
pub(super) const START_SOCKET: &str = "start.sock";

/// Opens it for waiting.
pub(super) fn bind(state_folder: &Path) -> io::Result<UnixListener> {
    let folder = open_folder(state_folder)?;
    UnixListener::bind(short_path(&folder, START_SOCKET))
}

/// Says `start` to who waits.
pub(super) fn connect(state_folder: &Path) -> io::Result<UnixStream> {
    let folder = open_folder(state_folder)?;
    let mut connection = UnixStream::connect(short_path(&folder, START_SOCKET))?;
    connection.write_all(b"s")?;
    Ok(connection)
}

/// A socket's path has room for 107 bytes only; through the folder's descriptor any folder will
/// do.
fn short_path(folder: &OwnedFd, name: &str) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name)
}

/// Opens a folder to name files in it.
fn open_folder(folder: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(folder, flags, Mode::empty())?)
}
