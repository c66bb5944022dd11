//! A tap beside an interface, in the same namespace. It ends with the last of its descriptors, so
//! with the monitor.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;

use cofferdam_protocol::netlink::{Message, Netlink};
use nix::libc;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::sys;
use super::{NetworkError, changing};
use crate::host::network_namespace;
use crate::plan::network::TAP_NAME;

const TUN: &str = "/dev/net/tun";
/// A virtio header with the number of buffers.
const HEADER_BYTES: i32 = 12;
/// Checksums, and UDP of both versions of IP.
const UNCUT_UDP: u32 = 0x01 | 0x20 | 0x40;

const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const NO_GENERATED_ADDRESS: u8 = 1;

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN)
}

/// Sets how long the packets are that a tap carries, in the namespace that the caller is in.
pub(super) fn set_mtu(index: u32, mtu: u16) -> Result<(), NetworkError> {
    let mut kernel = network_namespace::netlink().map_err(NetworkError::Enter)?;
    let mtu = u32::from(mtu).to_le_bytes();
    let message = Message::of_link(index, 0).attribute(libc::IFLA_MTU, &mtu);
    kernel.request(message).map_err(changing("the tap"))
}

/// A tap that is down.
#[derive(Debug)]
pub(super) struct Tap {
    /// Its queues.
    pub(super) queues: Vec<File>,
    pub(super) index: u32,
    /// Whether this kernel cuts UDP.
    pub(super) uncut_udp: bool,
}

impl Tap {
    /// Makes one with so many queues, at least one, in the namespace that the caller is in.
    pub(super) fn create(queues: usize) -> io::Result<Self> {
        let first = open()?;
        let several = queues > 1;
        // The kernel puts a number in.
        let name = sys::make_tap(&first, &format!("{TAP_NAME}%d"), several)?;
        sys::set_header_bytes(&first, HEADER_BYTES)?;
        let uncut_udp = sys::set_offload(&first, UNCUT_UDP).is_ok();
        sys::set_offload(&first, 0)?;
        let further = (1..queues).map(|_| {
            let further = open()?;
            sys::make_tap(&further, &name, several)?;
            Ok(further)
        });
        let queues = std::iter::once(Ok(first)).chain(further).collect::<io::Result<_>>()?;
        let any = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let index = name_to_index(any, &name)?;
        Ok(Self { queues, index, uncut_udp })
    }

    /// Brings it up. It has no address, and finds itself none: it is only a way.
    pub(super) fn bring_up(
        &self,
        kernel: &mut Netlink<File>,
        mtu: u16,
    ) -> Result<(), NetworkError> {
        let quiet = Message::of_link(self.index, 0)
            .attribute(libc::IFLA_MTU, &u32::from(mtu).to_le_bytes())
            .nested(IFLA_AF_SPEC, |families| {
                families.nested(libc::AF_INET6 as u16, |family| {
                    family.attribute(IFLA_INET6_ADDR_GEN_MODE, &[NO_GENERATED_ADDRESS])
                })
            });
        let up = libc::IFF_UP.cast_unsigned();
        let change = changing("the tap");
        match kernel.request(quiet) {
            // There is no IPv6 here, so it finds itself no address.
            Err(error) if error.is(io::ErrorKind::Unsupported) => {
                let mtu = u32::from(mtu).to_le_bytes();
                let plain = Message::of_link(self.index, 0);
                kernel.request(plain.attribute(libc::IFLA_MTU, &mtu)).map_err(&change)?;
            }
            done => done.map_err(&change)?,
        }
        kernel.request(Message::of_link(self.index, up)).map_err(&change)
    }
}
