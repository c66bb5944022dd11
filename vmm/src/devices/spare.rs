//! A descriptor that is given up when there is no other: for a connection that would otherwise wait in
//! its socket's queue, and have the thread called for it again at once and for ever. It is taken with
//! the spare one, and closed: whoever connected sees that.

use std::os::fd::OwnedFd;

use rustix::io::{Result, fcntl_dupfd_cloexec};
use rustix::net::{SocketFlags, accept_with};

/// The descriptor; none if another thread took the place while it was given up.
#[derive(Debug)]
pub(super) struct Spare(Option<OwnedFd>);

impl Spare {
    /// One that leads to what this does.
    pub(super) fn of(listener: &OwnedFd) -> Result<Self> {
        fcntl_dupfd_cloexec(listener, 0).map(|descriptor| Self(Some(descriptor)))
    }

    /// Closes the first connection that waits.
    pub(super) fn turn_away(&mut self, listener: &OwnedFd) {
        self.0 = None;
        drop(accept_with(listener, SocketFlags::CLOEXEC));
        self.0 = fcntl_dupfd_cloexec(listener, 0).ok();
    }
}
