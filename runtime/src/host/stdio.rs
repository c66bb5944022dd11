//! What a container's process is connected to on the host.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};

/// The host's ends of a process's standard streams.
#[derive(Debug)]
pub enum ProcessStdio {
    /// Descriptors that the caller of the runtime gave: each becomes the process's own (in
    /// namespaces) or is carried to it (into a microVM).
    Inherit {
        /// Standard input.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: Option<OwnedFd>,
        /// Standard error.
        stderr: Option<OwnedFd>,
    },
    /// A terminal of its own, made by the sandbox; its master side goes to the caller of `create`
    /// or `exec` ([`crate::sandbox::request::Created::terminal`]), who sends it to the console
    /// socket or relays it.
    Terminal {
        /// Lines and characters at first; the spec's `consoleSize` or the user's terminal.
        size: Option<(u16, u16)>,
        /// The caller copies what it shows to a terminal of its own, which ends lines as it likes.
        relayed: bool,
    },
}

impl ProcessStdio {
    /// This process's own three, as further descriptors of the same open files.
    ///
    /// # Errors
    /// When no further descriptor can be had.
    pub fn inherited() -> io::Result<Self> {
        Ok(Self::Inherit {
            stdin: Some(io::stdin().as_fd().try_clone_to_owned()?),
            stdout: Some(io::stdout().as_fd().try_clone_to_owned()?),
            stderr: Some(io::stderr().as_fd().try_clone_to_owned()?),
        })
    }
}

/// An open file description of its own for the same stream, without blocking: setting
/// `O_NONBLOCK` on a shared one would set it for the user's shell too.
///
/// What cannot be opened again is duplicated: a socket (it is used with `MSG_DONTWAIT`), a regular
/// file (it never blocks, and its offset must stay shared), a file whose permissions have changed.
///
/// # Errors
/// When no descriptor can be had.
pub fn reopen(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(descriptor)?.st_mode);
    if matches!(kind, FileType::Fifo | FileType::CharacterDevice) {
        let access = rustix::fs::fcntl_getfl(descriptor)? & (OFlags::RWMODE | OFlags::APPEND);
        let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if let Ok(own) = rustix::fs::open(path, flags, Mode::empty()) {
            return Ok(own);
        }
    }
    descriptor.try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn is_nonblocking(descriptor: BorrowedFd<'_>) -> bool {
        rustix::fs::fcntl_getfl(descriptor).unwrap().contains(OFlags::NONBLOCK)
    }

    #[test]
    fn a_pipe_gets_a_description_of_its_own() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut own = std::fs::File::from(reopen(reader.as_fd()).unwrap());
        assert!(is_nonblocking(own.as_fd()));
        assert!(!is_nonblocking(reader.as_fd()));
        writer.write_all(b"x").unwrap();
        own.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn a_file_keeps_its_offset() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"ab").unwrap();
        let mut own = std::fs::File::from(reopen(file.as_fd()).unwrap());
        own.write_all(b"c").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3);
    }

    #[test]
    fn a_socket_is_duplicated() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!is_nonblocking(reopen(a.as_fd()).unwrap().as_fd()));
    }
}
