//! What goes to one address and port of the loopback interface comes to another: two rules of
//! nftables, as `nft add rule ip cofferdam output ip daddr A udp dport P redirect to :Q` makes one.
//!
//! So a program may still have a server of its own at that port, of all addresses.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use cofferdam_protocol::netlink::numbers::CREATE;
use cofferdam_protocol::netlink::{Message, Netlink, NetlinkError};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with};

/// The transports that ask for names, by their numbers in an IP header.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    Tcp = 6,
    Udp = 17,
}

// `NFNL_MSG_BATCH_*` and `NFT_MSG_*` of the subsystem of nftables.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0x0a00;
const NEW_CHAIN: u16 = 0x0a03;
const NEW_RULE: u16 = 0x0a06;
/// `struct nfgenmsg`: for a batch the subsystem, for the others the family.
const OF_NFTABLES: [u8; 4] = [0, 0, 0, 0x0a];
const OF_IPV4: [u8; 4] = [2, 0, 0, 0];

const TABLE: &str = "cofferdam";
const CHAIN: &str = "output";
const LOCAL_OUT: u32 = 3;
/// `NF_IP_PRI_NAT_DST`.
const PRIORITY: i32 = -100;

const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const REGISTER: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Where the destination is in an IPv4 header, and the port in that of TCP or UDP.
const DESTINATION: (u32, u32) = (16, 4);
const PORT: (u32, u32) = (2, 2);
const L4_PROTOCOL: u32 = 16;
const EQUAL: u32 = 0;

/// Redirects what the guest's programs send there, before what was redirected earlier.
///
/// # Errors
/// The kernel's reason; nothing is redirected then.
pub(crate) fn add(from: SocketAddrV4, to: &[(Transport, u16)]) -> Result<(), NetlinkError> {
    let kind = (AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC);
    let socket = socket_with(kind.0, kind.1, kind.2, Some(netlink::NETFILTER))
        .map_err(|errno| NetlinkError::Socket(io::Error::from(errno)))?;
    Netlink::<File>::new(socket.into()).batch(messages(from, to))
}

fn messages(from: SocketAddrV4, to: &[(Transport, u16)]) -> Vec<Message> {
    let mut messages = vec![
        Message::new(BATCH_BEGIN, 0, &OF_NFTABLES),
        Message::new(NEW_TABLE, CREATE, &OF_IPV4).name(1, TABLE),
        Message::new(NEW_CHAIN, CREATE, &OF_IPV4)
            .name(1, TABLE)
            .name(3, CHAIN)
            .nested(4, |hook| {
                hook.attribute(1, &LOCAL_OUT.to_be_bytes()).attribute(2, &PRIORITY.to_be_bytes())
            })
            .name(7, "nat"),
    ];
    messages.extend(to.iter().map(|(transport, port)| rule(from, *transport, *port)));
    messages.push(Message::new(BATCH_END, 0, &OF_NFTABLES));
    messages
}

fn rule(from: SocketAddrV4, transport: Transport, to: u16) -> Message {
    let address: Ipv4Addr = *from.ip();
    Message::new(NEW_RULE, CREATE, &OF_IPV4).name(1, TABLE).name(2, CHAIN).nested(4, |list| {
        let list = field(list, NETWORK_HEADER, DESTINATION, &address.octets());
        let list = expression(list, "meta", |data| {
            data.attribute(1, &REGISTER.to_be_bytes()).attribute(2, &L4_PROTOCOL.to_be_bytes())
        });
        let list = equals(list, &[transport as u8]);
        let list = field(list, TRANSPORT_HEADER, PORT, &from.port().to_be_bytes());
        let list = expression(list, "immediate", |data| {
            data.attribute(1, &REGISTER.to_be_bytes())
                .nested(2, |value| value.attribute(DATA_VALUE, &to.to_be_bytes()))
        });
        expression(list, "redir", |data| data.attribute(1, &REGISTER.to_be_bytes()))
    })
}

/// A field of a header must be this.
fn field(list: Message, header: u32, (offset, length): (u32, u32), value: &[u8]) -> Message {
    let list = expression(list, "payload", |data| {
        let numbers = (1..).zip([REGISTER, header, offset, length]);
        numbers.fold(data, |data, (kind, number)| data.attribute(kind, &number.to_be_bytes()))
    });
    equals(list, value)
}

fn equals(list: Message, value: &[u8]) -> Message {
    expression(list, "cmp", |data| {
        data.attribute(1, &REGISTER.to_be_bytes())
            .attribute(2, &EQUAL.to_be_bytes())
            .nested(3, |data| data.attribute(DATA_VALUE, value))
    })
}

fn expression(list: Message, name: &str, content: impl FnOnce(Message) -> Message) -> Message {
    list.nested(LIST_ELEMENT, |element| {
        element.name(EXPRESSION_NAME, name).nested(EXPRESSION_DATA, content)
    })
}
