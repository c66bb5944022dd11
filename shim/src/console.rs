//! The socket over which the runtime hands a terminal over.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;

/// A bundle's own path may be longer than the address of a socket can be.
const PARENT: &str = "/run";

/// A socket for one terminal.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    folder: TempDir,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Listens in a folder of root's alone.
    ///
    /// # Errors
    /// `/run` is not to be written to.
    pub(crate) fn listen() -> io::Result<Self> {
        let folder = TempDir::with_prefix_in("cofferdam-console-", PARENT)?;
        let listener = UnixListener::bind(folder.path().join("socket"))?;
        listener.set_nonblocking(true)?;
        Ok(Self { folder, listener })
    }

    /// Its path.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// The master side, which the runtime has sent before it ended. Reads do not block.
    ///
    /// # Errors
    /// It sent none.
    pub(crate) fn receive(self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept()?;
        let mut space = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // The terminal's name, which nobody needs.
        let mut name = [0; 4096];
        let flags = RecvFlags::CMSG_CLOEXEC;
        recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut control, flags)?;
        let sent = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let master = sent.ok_or(io::ErrorKind::NotFound)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(master)
    }
}
