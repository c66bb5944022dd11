//! What a process in a guest is connected to on the host: descriptors for the monitor.
//!
//! The monitor gets open file descriptions of its own where that is possible ([`reopen`]), so that
//! the `O_NONBLOCK` that it needs is not set on the user's shell.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cofferdam_protocol::control::AttachedStreams;
use cofferdam_protocol::plan::StdioPlan;

use crate::host::stdio::{ProcessStdio, reopen};
use crate::host::terminal::{TerminalPair, WindowSize};

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
        /// Shown at a terminal of the caller's.
        relayed: bool,
    },
}

impl HostStreams {
    /// Makes what the monitor needs.
    pub(super) fn prepare(stdio: ProcessStdio) -> Result<Self, StdioError> {
        match stdio {
            ProcessStdio::Inherit { stdin, stdout, stderr } => Ok(Self::Pipes {
                stdin: own("stdin", stdin.filter(|stdin| !is_null(stdin.as_fd())))?,
                stdout: own("stdout", stdout)?,
                stderr: own("stderr", stderr)?,
            }),
            ProcessStdio::Terminal { size, relayed } => {
                terminal(size.unwrap_or_default(), relayed).map_err(StdioError::Terminal)
            }
        }
    }

    /// The same for a process that was saved with these: it has input if it had some. Where it is
    /// given none that could be read, it sees its end.
    pub(super) fn prepare_again(stdio: ProcessStdio, saved: StdioPlan) -> Result<Self, StdioError> {
        let mut streams = Self::prepare(stdio)?;
        let saved_input = matches!(saved, StdioPlan::Pipes { stdin: true, .. });
        if let Self::Pipes { stdin, .. } = &mut streams {
            let given = stdin.take().map_or_else(ended, Ok).map_err(unusable("stdin"))?;
            *stdin = saved_input.then_some(given);
        }
        Ok(streams)
    }

    /// How the agent connects the process.
    pub(super) const fn plan(&self) -> StdioPlan {
        match self {
            Self::Pipes { stdin, stdout, stderr } => StdioPlan::Pipes {
                stdin: stdin.is_some(),
                stdout: stdout.is_some(),
                stderr: stderr.is_some(),
            },
            Self::Terminal { size: (rows, columns), relayed, .. } => {
                StdioPlan::Terminal { rows: *rows, columns: *columns, keep_line_feeds: *relayed }
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

    /// The same, where this is still needed.
    pub(super) fn clone_terminal(&self) -> Result<Option<(OwnedFd, OwnedFd)>, StdioError> {
        let Self::Terminal { master, slave, .. } = self else { return Ok(None) };
        let clone = || Ok((master.try_clone()?, slave.try_clone()?));
        clone().map(Some).map_err(StdioError::Terminal)
    }

    /// The terminal's two sides, master first.
    pub(super) fn into_terminal(self) -> Option<(OwnedFd, OwnedFd)> {
        match self {
            Self::Pipes { .. } => None,
            Self::Terminal { master, slave, .. } => Some((master, slave)),
        }
    }
}

/// Whether nothing can come from a descriptor: the guest has a `/dev/null` of its own.
fn is_null(descriptor: BorrowedFd<'_>) -> bool {
    use rustix::fs::FileType;
    let is_null = |stat: rustix::fs::Stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3)
    };
    rustix::fs::fstat(descriptor).is_ok_and(is_null)
}

/// What can be read to its end, which is its beginning.
fn ended() -> io::Result<OwnedFd> {
    let (reader, _) = io::pipe()?;
    reopen(reader.as_fd())
}

fn own(name: &'static str, descriptor: Option<OwnedFd>) -> Result<Option<OwnedFd>, StdioError> {
    let own = descriptor.map(|descriptor| reopen(descriptor.as_fd())).transpose();
    own.map_err(unusable(name))
}

fn unusable(name: &'static str) -> impl FnOnce(io::Error) -> StdioError {
    move |source| StdioError::Stream { name, source }
}

fn terminal(size: (u16, u16), relayed: bool) -> io::Result<HostStreams> {
    let (rows, columns) = size;
    let shown = (size != (0, 0)).then_some(WindowSize { rows, columns });
    let TerminalPair { master, slave } = TerminalPair::open(shown)?;
    // The caller has the master's description, the monitor the slave's.
    rustix::io::ioctl_fionbio(&slave, true)?;
    Ok(HostStreams::Terminal { master, slave, size, relayed })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustix::termios::{LocalModes, tcgetattr, tcgetwinsize};

    use super::*;

    #[test]
    fn a_terminal_is_raw_and_has_its_size() {
        let streams =
            HostStreams::prepare(ProcessStdio::Terminal { size: Some((40, 120)), relayed: true })
                .unwrap();
        let plan = StdioPlan::Terminal { rows: 40, columns: 120, keep_line_feeds: true };
        assert_eq!(streams.plan(), plan);
        let (master, slave) = streams.into_terminal().unwrap();
        let size = tcgetwinsize(&master).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (40, 120));
        assert!(!tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ECHO));
    }

    #[test]
    fn no_input_is_carried_from_dev_null() {
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let stdio = ProcessStdio::Inherit { stdin: Some(null), stdout: None, stderr: None };
        let expected = StdioPlan::Pipes { stdin: false, stdout: false, stderr: false };
        assert_eq!(HostStreams::prepare(stdio).unwrap().plan(), expected);
    }

    #[test]
    fn a_saved_process_has_input_again_if_it_had_some() {
        let given = |stdin: Option<OwnedFd>, had_input| {
            let stdio = ProcessStdio::Inherit { stdin, stdout: None, stderr: None };
            let saved = StdioPlan::Pipes { stdin: had_input, stdout: false, stderr: false };
            let streams = HostStreams::prepare_again(stdio, saved).unwrap();
            assert_eq!(streams.plan(), saved);
            let HostStreams::Pipes { stdin, .. } = streams else { unreachable!() };
            stdin
        };
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"one").unwrap();
        assert!(given(Some(reader.try_clone().unwrap().into()), false).is_none());
        let mut buffer = [0; 8];
        let input = given(Some(reader.into()), true).unwrap();
        assert_eq!(rustix::io::read(&input, &mut buffer).unwrap(), 3);
        // The end of what was not given.
        let input = given(None, true).unwrap();
        assert_eq!(rustix::io::read(&input, &mut buffer).unwrap(), 0);
    }

    #[test]
    fn streams_that_are_not_there_are_neither_planned_nor_given() {
        let (_reader, writer) = io::pipe().unwrap();
        let stdio =
            ProcessStdio::Inherit { stdin: None, stdout: Some(writer.into()), stderr: None };
        let streams = HostStreams::prepare(stdio).unwrap();
        let expected = StdioPlan::Pipes { stdin: false, stdout: true, stderr: false };
        assert_eq!(streams.plan(), expected);
        assert_eq!(streams.attachment(true).1.len(), 1);
    }
}
