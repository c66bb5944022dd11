//! Datagrams of any size, which busybox cuts: each that comes goes back to its sender.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// The largest that there is.
const MAX_DATAGRAM_BYTES: usize = 65_535;

/// Listens at an address until it is killed; at that of a group, among its members.
pub(crate) fn echo(arguments: &[String]) -> io::Result<()> {
    let [address] = arguments else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "--echo-datagrams ADDRESS:PORT"));
    };
    let socket = UdpSocket::bind(address)?;
    if let IpAddr::V4(group) = socket.local_addr()?.ip()
        && group.is_multicast()
    {
        socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)?;
    }
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    loop {
        let (length, sender) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], sender)?;
    }
}
