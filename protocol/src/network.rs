//! The network of a guest: its interfaces as the runtime read them of the container's network
//! namespace on the host, for the agent to make the same.
//!
//! Addresses, routes and neighbours are as the host's kernel told them and the guest's kernel takes
//! them ([`crate::netlink`]), but for the number of the interface, which is another there.

use serde::{Deserialize, Serialize};

use crate::netlink::numbers::{CREATE, NEW_ADDRESS, REPLACE};
use crate::netlink::{Attribute, Message};

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfacePlan {
    /// Its name: at most 15 bytes.
    pub name: String,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// How long a packet may be.
    pub mtu: u16,
    /// Whether it has IPv6 at all.
    pub ipv6: bool,
    /// Whether it heeds what routers say (`accept_ra`): 0 to 2.
    pub accept_ra: u8,
    /// Its addresses.
    pub addresses: Vec<AddressPlan>,
    /// The routes through it, those first that others need.
    pub routes: Vec<RoutePlan>,
    /// Who is where on its link, as far as that was said and not found out.
    pub neighbours: Vec<NeighbourPlan>,
}

/// `struct ifaddrmsg`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPlan {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// How many bits of it are the network's.
    pub prefix_bits: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `IFA_*`.
    pub attributes: Vec<Attribute>,
}

impl AddressPlan {
    /// Gives it to the interface of this number.
    #[must_use]
    pub fn message(&self, index: u32) -> Message {
        let [i0, i1, i2, i3] = index.to_le_bytes();
        let fixed = [self.family, self.prefix_bits, 0, self.scope, i0, i1, i2, i3];
        Message::new(NEW_ADDRESS, CREATE | REPLACE, &fixed).attributes(&self.attributes)
    }
}

/// `struct rtmsg`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutePlan {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// How many bits of the destination count.
    pub destination_bits: u8,
    /// Type of service.
    pub tos: u8,
    /// `RTPROT_*`.
    pub protocol: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `RTN_*`.
    pub kind: u8,
    /// `RTNH_F_*`.
    pub flags: u32,
    /// `RTA_*`.
    pub attributes: Vec<Attribute>,
}

/// `struct ndmsg`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeighbourPlan {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// `NUD_*`.
    pub state: u16,
    /// `NTF_*`.
    pub flags: u8,
    /// `NDA_*`.
    pub attributes: Vec<Attribute>,
}
