//! What a process in a guest is connected to on the host: descriptors for the monitor.
//!
//! The monitor gets open file descriptions of its own where that is possible, so that the
//! `O_NONBLOCK` that it needs is not set on the user's shell. A regular file is given as it is:
//! its offset belongs to whoever shares it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use cofferdam_protocol::control::AttachedStreams;
use cofferdam_protocol::plan::StdioPlan;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::host::stdio::ProcessStdio;

/// Why a process cannot be connected.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// No terminal.
    #[error("Cannot make a terminal")]
    Terminal(#[source] io::Error),
    /// A descriptor of the caller's is not usable.
    #[error("Cannot use the descriptor given as {name}")]
    Stream {
        /// `stdin` and so on.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The host's ends.
#[derive(Debug)]
pub(super) enum HostStreams {
    /// Of the caller's.
    Pipes {
        /// Host to guest.
        stdin: Option<OwnedFd>,
        /// Guest to host.
        stdout: Option<OwnedFd>,
        /// Guest to host.
        stderr: Option<OwnedFd>,
    },
    /// A terminal.
    Terminal {
        /// For the caller.
        master: OwnedFd,
        /// For the monitor, in raw mode: the guest's own terminal does the rest.
        slave: OwnedFd,
        /// Lines and characters.
        size: (u16, u16),
    },
}

impl HostStreams {
    /// Makes what the monitor needs.
    pub(super) fn prepare(stdio: ProcessStdio) -> Result<Self, StdioError> {
        match stdio {
            ProcessStdio::Inherit { stdin, stdout, stderr } => Ok(Self::Pipes {
                stdin: reopen("stdin", stdin, OFlags::RDONLY)?,
                stdout: reopen("stdout", stdout, OFlags::WRONLY)?,
                stderr: reopen("stderr", stderr, OFlags::WRONLY)?,
            }),
            ProcessStdio::Terminal { size } => {
                terminal(size.unwrap_or_default()).map_err(StdioError::Terminal)
            }
        }
    }

    /// How the agent connects the process.
    pub(super) const fn plan(&self) -> StdioPlan {
        match self {
            Self::Pipes { stdin, stdout, stderr } => StdioPlan::Pipes {
                stdin: stdin.is_some(),
                stdout: stdout.is_some(),
                stderr: stderr.is_some(),
            },
            Self::Terminal { size: (rows, columns), .. } => {
                StdioPlan::Terminal { rows: *rows, columns: *columns }
            }
        }
    }

    /// What the monitor is told, and the descriptors that come with it.
    pub(super) fn attachment(&self, controlling: bool) -> (AttachedStreams, Vec<BorrowedFd<'_>>) {
        match self {
            Self::Pipes { stdin, stdout, stderr } => {
                let streams = AttachedStreams::Pipes {
                    stdin: stdin.is_some(),
                    stdout: stdout.is_some(),
                    stderr: stderr.is_some(),
                };
                let given = [stdin, stdout, stderr].into_iter().flatten().map(AsFd::as_fd);
                (streams, given.collect())
            }
            Self::Terminal { slave, .. } => {
                (AttachedStreams::Terminal { controlling }, vec![slave.as_fd()])
            }
        }
    }

    /// The terminal's two sides, master first.
    pub(super) fn into_terminal(self) -> Option<(OwnedFd, OwnedFd)> {
        match self {
            Self::Pipes { .. } => None,
            Self::Terminal { master, slave, .. } => Some((master, slave)),
        }
    }
}

/// An open file description of its own for what a descriptor refers to, or the same one where
/// there cannot be another (sockets, pipes whose other side is gone) or must not be (files).
fn reopen(
    name: &'static str,
    descriptor: Option<OwnedFd>,
    mode: OFlags,
) -> Result<Option<OwnedFd>, StdioError> {
    let Some(descriptor) = descriptor else { return Ok(None) };
    let stat = rustix::fs::fstat(&descriptor)
        .map_err(|errno| StdioError::Stream { name, source: errno.into() })?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::Fifo | FileType::CharacterDevice) {
        return Ok(Some(descriptor));
    }
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let flags = mode | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(Some(rustix::fs::open(path, flags, Mode::empty()).unwrap_or(descriptor)))
}

fn terminal(size: (u16, u16)) -> io::Result<HostStreams> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    let mut modes = tcgetattr(&slave)?;
    modes.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &modes)?;
    let (rows, columns) = size;
    if size != (0, 0) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&slave, size)?;
    }
    // Blocking or not is a property of the description: the monitor's own one is the slave's.
    let slave = File::from(slave);
    rustix::io::ioctl_fionbio(&slave, true)?;
    Ok(HostStreams::Terminal { master, slave: slave.into(), size })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustix::fs::fcntl_getfl;

    use super::*;

    #[test]
    fn a_pipe_of_the_monitors_does_not_block_and_the_callers_does() {
        let (reader, writer) = std::io::pipe().unwrap();
        let caller = writer.try_clone().unwrap();
        let own = reopen("stdout", Some(writer.into()), OFlags::WRONLY).unwrap().unwrap();
        assert!(fcntl_getfl(&own).unwrap().contains(OFlags::NONBLOCK));
        assert!(!fcntl_getfl(&caller).unwrap().contains(OFlags::NONBLOCK));
        File::from(own).write_all(b"x").unwrap();
        drop(caller);
        let mut read = Vec::new();
        let mut reader = reader;
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"x");
    }

    #[test]
    fn a_file_keeps_the_offset_that_it_shares() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        let same = reopen("stdout", Some(file.try_clone().unwrap().into()), OFlags::WRONLY);
        File::from(same.unwrap().unwrap()).write_all(b"d").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4);
    }

    #[test]
    fn a_terminal_is_raw_and_has_its_size() {
        let streams =
            HostStreams::prepare(ProcessStdio::Terminal { size: Some((40, 120)) }).unwrap();
        assert_eq!(streams.plan(), StdioPlan::Terminal { rows: 40, columns: 120 });
        let (master, slave) = streams.into_terminal().unwrap();
        let size = rustix::termios::tcgetwinsize(&master).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (40, 120));
        let modes = tcgetattr(&slave).unwrap();
        assert!(!modes.local_modes.contains(rustix::termios::LocalModes::ECHO));
    }
}
