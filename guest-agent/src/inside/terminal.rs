//! A process's terminal, from the container's own devpts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr};

use super::channel::ChildEnd;
use super::failure::{StartError, Step};
use super::mounts::{attach, clone_tree};
use super::root::{Kind, Root};

/// Opens a terminal, hands its master side to the agent, and makes the other this process's
/// standard streams and controlling terminal. The caller leads a session.
pub(crate) fn connect(
    root: &Root,
    size: (u16, u16),
    keep_line_feeds: bool,
    channel: &ChildEnd,
) -> Result<OwnedFd, StartError> {
    let master = open_master(root).step(|| "opening the container's /dev/ptmx".to_owned())?;
    let slave = adopt(master.as_fd(), size, keep_line_feeds)
        .step(|| "setting up the container's terminal".to_owned())?;
    channel.terminal(master.as_fd()).step(|| "handing the terminal over".to_owned())?;
    Ok(slave)
}

/// `/dev/pts/ptmx` is the container's own by construction; `/dev/ptmx` is by custom a link to it.
fn open_master(root: &Root) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    match root.find("/dev/pts/ptmx", flags) {
        Err(Errno::NOENT | Errno::ACCESS) => root.find("/dev/ptmx", flags),
        other => other,
    }
}

fn adopt(
    master: BorrowedFd<'_>,
    (rows, columns): (u16, u16),
    keep_line_feeds: bool,
) -> io::Result<OwnedFd> {
    rustix::pty::unlockpt(master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(master, flags)?;
    if (rows, columns) != (0, 0) {
        rustix::termios::tcsetwinsize(&slave, size(rows, columns))?;
    }
    if keep_line_feeds {
        let mut attributes = tcgetattr(&slave)?;
        attributes.output_modes.remove(OutputModes::ONLCR);
        tcsetattr(&slave, OptionalActions::Now, &attributes)?;
    }
    rustix::process::ioctl_tiocsctty(&slave)?;
    rustix::stdio::dup2_stdin(&slave)?;
    rustix::stdio::dup2_stdout(&slave)?;
    rustix::stdio::dup2_stderr(&slave)?;
    Ok(slave)
}

/// The container's `/dev/console` is its init's terminal, as with runc.
pub(crate) fn bind_console(root: &Root, slave: BorrowedFd<'_>) -> Result<(), StartError> {
    let bind = || -> io::Result<()> {
        let tree = clone_tree(slave, "", false)?;
        let target = root.find_or_make("/dev/console", Kind::File)?;
        Ok(attach(tree.as_fd(), target.as_fd())?)
    };
    bind().step(|| "binding the terminal to /dev/console".to_owned())
}

/// A terminal's size as the kernel takes it.
pub(crate) fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
