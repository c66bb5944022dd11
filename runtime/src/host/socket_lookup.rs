//! Programs that the kernel asks, before it looks among the sockets of a network namespace that listen, for
//! whom a connection is (`BPF_PROG_TYPE_SK_LOOKUP`; `Documentation/bpf/prog_sk_lookup.rst`).
//!
//! Linux has them since 5.9. They take the host's own CAP_NET_ADMIN and CAP_BPF (or CAP_SYS_ADMIN), not those
//! of a user namespace.

mod sys;

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

/// Sockets that a program can give connections to.
#[derive(Debug)]
pub(crate) struct SocketMap {
    map: OwnedFd,
}

/// A program that the kernel has taken.
#[derive(Debug)]
pub(crate) struct LookupProgram(OwnedFd);

impl SocketMap {
    /// A map with room for so many.
    ///
    /// # Errors
    /// When the kernel has none, or refuses.
    pub(crate) fn create(room: u32) -> io::Result<Self> {
        Ok(Self { map: sys::create_socket_map(room)? })
    }

    /// Puts a listening socket at a place.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn put(&self, place: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        sys::put_socket(self.map.as_fd(), place, socket)
    }

    /// Has the kernel take the program that is made for this map's descriptor.
    ///
    /// # Errors
    /// When it has no such programs, or refuses.
    pub(crate) fn load(&self, program: impl FnOnce(i32) -> Vec<u8>) -> io::Result<LookupProgram> {
        sys::load_lookup_program(&program(self.map.as_raw_fd())).map(LookupProgram)
    }
}

impl LookupProgram {
    /// Has it asked in a network namespace, for as long as any descriptor of the link is open.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn attach(&self, namespace: impl AsFd) -> io::Result<OwnedFd> {
        sys::link_lookup_program(self.0.as_fd(), namespace.as_fd())
    }
}
