//! Datagrams of any size, which busybox cuts: each that comes goes back to its sender.

use std::io;
use std::net::UdpSocket;

/// The largest that there is.
const MAX_DATAGRAM_BYTES: usize = 65_535;

/// Listens at an address until it is killed.
pub(crate) fn echo(arguments: &[String]) -> io::Result<()> {
    let [address] = arguments else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "--echo-datagrams ADDRESS:PORT"));
    };
    let socket = UdpSocket::bind(address)?;
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    loop {
        let (length, sender) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], sender)?;
    }
}
