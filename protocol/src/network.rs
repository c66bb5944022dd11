//! The network of a guest: its interfaces as the runtime read them of the container's network
//! namespace on the host, for the agent to make the same.
//!
//! Addresses, routes and neighbours are as the host's kernel told them and the guest's kernel takes
//! them ([`crate::netlink`]), but for the number of the interface, which is another there.

use serde::{Deserialize, Serialize};

use crate::netlink::numbers::{
    APPEND, CREATE, DELETE_ADDRESS, DELETE_NEIGHBOUR, DELETE_ROUTE, NEW_ADDRESS, NEW_NEIGHBOUR,
    NEW_ROUTE, REPLACE,
};
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
    /// What was set of it.
    pub settings: InterfaceSettings,
}

/// What somebody has set of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceSettings {
    /// Its addresses.
    pub addresses: Vec<AddressPlan>,
    /// The routes through it, those first that others need.
    pub routes: Vec<RoutePlan>,
    /// Who is where on its link, as far as that was said and not found out.
    pub neighbours: Vec<NeighbourPlan>,
}

impl InterfaceSettings {
    /// These, and those of others that are not among them.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        let more = others.without(self);
        Self {
            addresses: [&self.addresses[..], &more.addresses].concat(),
            routes: [&self.routes[..], &more.routes].concat(),
            neighbours: [&self.neighbours[..], &more.neighbours].concat(),
        }
    }

    /// Those of these that others do not have.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        fn missing<T: Clone + PartialEq>(these: &[T], others: &[T]) -> Vec<T> {
            these.iter().filter(|one| !others.contains(one)).cloned().collect()
        }
        Self {
            addresses: missing(&self.addresses, &others.addresses),
            routes: missing(&self.routes, &others.routes),
            neighbours: missing(&self.neighbours, &others.neighbours),
        }
    }
}

/// How an interface becomes another one. What the guest has set of it by itself stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceChange {
    /// Another Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Another length of packets, if it has one.
    pub mtu: Option<u16>,
    /// Another answer to whether it heeds what routers say, if it has one.
    pub accept_ra: Option<u8>,
    /// What was set of it and is not any more.
    pub gone: InterfaceSettings,
    /// All that is to be set of it: with an address a kernel forgets others, and the routes that need it.
    pub settings: InterfaceSettings,
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
    pub fn addition(&self, index: u32) -> Message {
        self.message(NEW_ADDRESS, CREATE | REPLACE, index)
    }

    /// Takes it from that interface.
    #[must_use]
    pub fn removal(&self, index: u32) -> Message {
        self.message(DELETE_ADDRESS, 0, index)
    }

    fn message(&self, kind: u16, flags: u16, index: u32) -> Message {
        let [i0, i1, i2, i3] = index.to_le_bytes();
        let fixed = [self.family, self.prefix_bits, 0, self.scope, i0, i1, i2, i3];
        Message::new(kind, flags, &fixed).attributes(&self.attributes)
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

const MAIN_TABLE: u8 = 254;
const RTA_OIF: u16 = 4;

impl RoutePlan {
    /// Adds it to the main table, through the interface of this number.
    #[must_use]
    pub fn addition(&self, index: u32) -> Message {
        self.message(NEW_ROUTE, CREATE | APPEND, index)
    }

    /// Takes it from there.
    #[must_use]
    pub fn removal(&self, index: u32) -> Message {
        self.message(DELETE_ROUTE, 0, index)
    }

    fn message(&self, message: u16, message_flags: u16, index: u32) -> Message {
        let Self { family, destination_bits, tos, protocol, scope, kind, flags, attributes } = self;
        let [f0, f1, f2, f3] = flags.to_le_bytes();
        let head = [*family, *destination_bits, 0, *tos, MAIN_TABLE, *protocol, *scope, *kind];
        let fixed = [&head[..], &[f0, f1, f2, f3]].concat();
        Message::new(message, message_flags, &fixed)
            .attributes(attributes)
            .attribute(RTA_OIF, &index.to_le_bytes())
    }
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

impl NeighbourPlan {
    /// Makes it known on the interface of this number.
    #[must_use]
    pub fn addition(&self, index: u32) -> Message {
        self.message(NEW_NEIGHBOUR, CREATE | REPLACE, index)
    }

    /// Has it forgotten there.
    #[must_use]
    pub fn removal(&self, index: u32) -> Message {
        self.message(DELETE_NEIGHBOUR, 0, index)
    }

    fn message(&self, kind: u16, message_flags: u16, index: u32) -> Message {
        let [i0, i1, i2, i3] = index.to_le_bytes();
        let [s0, s1] = self.state.to_le_bytes();
        let fixed = [self.family, 0, 0, 0, i0, i1, i2, i3, s0, s1, self.flags, 0];
        Message::new(kind, message_flags, &fixed).attributes(&self.attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> AddressPlan {
        let attributes = vec![Attribute { kind: 2, value: vec![192, 0, 2, last] }];
        AddressPlan { family: 2, prefix_bits: 24, scope: 0, attributes }
    }

    fn settings(addresses: &[u8]) -> InterfaceSettings {
        let addresses = addresses.iter().copied().map(address).collect();
        InterfaceSettings { addresses, ..InterfaceSettings::default() }
    }

    #[test]
    fn settings_are_taken_apart_and_put_together() {
        assert_eq!(settings(&[1, 2]).without(&settings(&[2, 3])), settings(&[1]));
        assert_eq!(settings(&[1, 2]).and(&settings(&[2, 3])), settings(&[1, 2, 3]));
        assert_eq!(settings(&[1]).without(&settings(&[1])), InterfaceSettings::default());
    }

    #[test]
    fn what_is_added_is_removed_by_the_same_words() {
        let route = RoutePlan {
            family: 2,
            destination_bits: 24,
            tos: 0,
            protocol: 3,
            scope: 0,
            kind: 1,
            flags: 4,
            attributes: vec![],
        };
        let neighbour = NeighbourPlan { family: 2, state: 0x80, flags: 0, attributes: vec![] };
        let pairs = [
            (address(1).addition(7), address(1).removal(7), DELETE_ADDRESS),
            (route.addition(7), route.removal(7), DELETE_ROUTE),
            (neighbour.addition(7), neighbour.removal(7), DELETE_NEIGHBOUR),
        ];
        for (addition, removal, kind) in pairs {
            let (added, removed) = (addition.parts(), removal.parts());
            assert_eq!((removed.0, removed.1), (kind, added.1));
            assert_ne!(added.0, kind);
        }
    }
}
