//! Receiving a terminal's master side from the process that opened it inside its container.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use rustix::termios::Winsize;

/// The two ends of a console socket: ours, and the one that the helper gets.
pub(super) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Takes the master side from the socket and gives the terminal its first size.
pub(super) fn receive(socket: &OwnedFd, size: Option<(u16, u16)>) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0_u8; 64];
    rustix::net::recvmsg(
        socket,
        &mut [io::IoSliceMut::new(&mut name)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let master = control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    if let Some((rows, columns)) = size {
        resize(&master, rows, columns)?;
    }
    Ok(master)
}

/// Changes a terminal's size; its foreground processes get SIGWINCH.
pub(super) fn resize(master: &OwnedFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(master, size)?)
}
