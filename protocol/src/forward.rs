//! Connections that somebody on the host makes to the loopback interface of the pod's network namespace,
//! carried to the guest's: one vsock connection each to the agent's
//! [`FORWARD_PORT`](crate::bounds::FORWARD_PORT), opened with a header that says where it leads.
//!
//! After the header the bytes are the connection's own. End of file is a half-close, as on
//! [`stream`](crate::stream)s. Whoever closes without one before has the other side's connection reset: so the
//! agent says that nobody listens there.
//!
//! Hostile, for the agent: nothing. For the monitor: every byte after the header, which it passes on and
//! never reads, and how the connection ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

/// The length of the header in bytes: the version of IP, a zero, the port, big-endian.
pub const FORWARD_HEADER_BYTES: usize = 4;

/// Where a connection leads: a port of the loopback interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Of which address.
    pub loopback: Loopback,
    /// The port.
    pub port: NonZeroU16,
}

/// An address of the loopback interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// 127.0.0.1.
    V4 = 4,
    /// `::1`.
    V6 = 6,
}

/// The bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Not a port of the loopback interface")]
pub struct InvalidDestination;

impl Destination {
    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; FORWARD_HEADER_BYTES] {
        let [high, low] = self.port.get().to_be_bytes();
        [self.loopback as u8, 0, high, low]
    }

    /// Reads a header.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub fn parse(bytes: [u8; FORWARD_HEADER_BYTES]) -> Result<Self, InvalidDestination> {
        let (loopback, high, low) = match bytes {
            [4, 0, high, low] => (Loopback::V4, high, low),
            [6, 0, high, low] => (Loopback::V6, high, low),
            _ => return Err(InvalidDestination),
        };
        let port = NonZeroU16::new(u16::from_be_bytes([high, low])).ok_or(InvalidDestination)?;
        Ok(Self { loopback, port })
    }

    /// Whom to ask, one after the other. Who forwards a port asks 127.0.0.1 first and `::1` only where that
    /// is refused; what is carried is never refused at once, so that this does it.
    #[must_use]
    pub fn addresses(self) -> Vec<SocketAddr> {
        let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
        let addresses = match self.loopback {
            Loopback::V4 => vec![v4, v6],
            Loopback::V6 => vec![v6],
        };
        addresses.into_iter().map(|address| (address, self.port.get()).into()).collect()
    }
}

impl TryFrom<SocketAddr> for Destination {
    type Error = InvalidDestination;

    fn try_from(address: SocketAddr) -> Result<Self, InvalidDestination> {
        let loopback = match address.ip() {
            IpAddr::V4(Ipv4Addr::LOCALHOST) => Loopback::V4,
            IpAddr::V6(Ipv6Addr::LOCALHOST) => Loopback::V6,
            _ => return Err(InvalidDestination),
        };
        let port = NonZeroU16::new(address.port()).ok_or(InvalidDestination)?;
        Ok(Self { loopback, port })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parsing_is_the_inverse_of_writing(bytes in any::<[u8; FORWARD_HEADER_BYTES]>()) {
            if let Ok(destination) = Destination::parse(bytes) {
                prop_assert_eq!(destination.to_bytes(), bytes);
            }
        }

        #[test]
        fn every_port_of_either_address_survives_the_journey(port in 1..=u16::MAX, v6: bool) {
            let address = if v6 { "[::1]" } else { "127.0.0.1" };
            let address: SocketAddr = format!("{address}:{port}").parse().unwrap();
            let destination = Destination::try_from(address).unwrap();
            prop_assert_eq!(Destination::parse(destination.to_bytes()), Ok(destination));
            prop_assert_eq!(destination.addresses()[0], address);
        }
    }

    #[test]
    fn nothing_else_is_a_destination() {
        for bytes in [[0; 4], [4, 0, 0, 0], [5, 0, 0, 80], [4, 1, 0, 80]] {
            assert_eq!(Destination::parse(bytes), Err(InvalidDestination));
        }
        for address in ["127.0.0.11:53", "10.0.0.1:80", "[::]:80", "127.0.0.1:0"] {
            assert!(Destination::try_from(address.parse::<SocketAddr>().unwrap()).is_err());
        }
    }

    #[test]
    fn who_asks_for_the_first_version_of_ip_may_get_the_other() {
        let ask = |address: &str| {
            let destination = Destination::try_from(address.parse::<SocketAddr>().unwrap());
            destination.unwrap().addresses().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(ask("127.0.0.1:80"), ["127.0.0.1:80", "[::1]:80"]);
        assert_eq!(ask("[::1]:80"), ["[::1]:80"]);
    }
}
