//! The receiving side of `--console-socket`: what an engine does with it.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tempfile::TempDir;

/// A listening console socket.
#[derive(Debug)]
pub struct ConsoleSocket {
    folder: TempDir,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Listens at a fresh path.
    #[must_use]
    pub fn listen() -> Self {
        let folder = TempDir::with_prefix("cofferdam-console-").unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        Self { folder, listener }
    }

    /// The path for `--console-socket`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// The master side of the terminal that the runtime sends.
    #[must_use]
    pub fn terminal(&self) -> Terminal {
        let (stream, _) = self.listener.accept().unwrap();
        let mut name = [0; 4096];
        let mut iov = [IoSliceMut::new(&mut name)];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let message =
            recvmsg::<()>(stream.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::empty())
                .unwrap();
        let fd = message.cmsgs().unwrap().find_map(|cmsg| match cmsg {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        Terminal { master: sys::adopt(fd.expect("no descriptor came with the message")).into() }
    }
}

/// The master side of a terminal.
#[derive(Debug)]
pub struct Terminal {
    master: File,
}

impl Terminal {
    /// Types something.
    pub fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until this appears, and returns everything read.
    #[track_caller]
    pub fn shows(&mut self, text: &str) -> String {
        let mut seen = String::new();
        let mut buffer = [0; 1024];
        while !seen.contains(text) {
            match self.master.read(&mut buffer) {
                Ok(0) | Err(_) => panic!("the terminal ended; it showed {seen:?}, not {text:?}"),
                Ok(length) => seen.push_str(&String::from_utf8_lossy(&buffer[..length])),
            }
        }
        seen
    }

    /// Gives it a size.
    pub fn resizes(&self, rows: u16, columns: u16) {
        sys::set_window_size(&self.master, rows, columns);
    }
}

#[path = "console/sys.rs"]
mod sys;
