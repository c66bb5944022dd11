//! The interfaces of a container's network namespace, from what the host's kernel tells of it, as
//! the guest is to have them.
//!
//! What the kernel makes by itself is left out: the routes that come with an address, and what an
//! interface finds out from its neighbours. The guest's kernel does the same.

use cofferdam_protocol::netlink::{Answer, Attribute, attributes};
use cofferdam_protocol::network::{
    AddressPlan, InterfacePlan, InterfaceSettings, NeighbourPlan, RoutePlan,
};
use nix::libc;

const IFINFO_BYTES: usize = 16;
const IFADDR_BYTES: usize = 8;
const ROUTE_BYTES: usize = 12;
const NEIGHBOUR_BYTES: usize = 12;

/// What the names of the taps that lead to guests begin with.
pub const TAP_NAME: &str = "cofferdam";

const ETHERNET: u16 = libc::ARPHRD_ETHER;
const IPV6: u16 = libc::AF_INET6 as u16;

const IFLA_AF_SPEC: u16 = 26;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;
/// Places in the list of an interface's IPv6 parameters.
const ACCEPT_RA: usize = 3;
const DISABLE_IPV6: usize = 26;

const IFA_FLAGS: u16 = 8;
const IFA_RT_PRIORITY: u16 = 9;
const IFA_PROTO: u16 = 11;
/// An address that was made of what a router said.
const PROTO_ROUTER: u8 = 2;
const FLAG_TEMPORARY: u32 = 0x01;
const FLAG_NO_DAD: u32 = 0x02;
const FLAG_NO_PREFIX_ROUTE: u32 = 0x200;

const KERNELS: u8 = 2;
const OF_ROUTER: u8 = 9;
const ONLINK: u32 = 4;
const CLONED: u32 = 0x200;
const RTA_VIA: u16 = 18;
const RTA_PREF: u16 = 20;
const RTA_ENCAP_TYPE: u16 = 21;

const PERMANENT: u16 = 0x80;

/// What the kernel told of a namespace: everything of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Links.
    pub links: Vec<Answer>,
    /// Addresses.
    pub addresses: Vec<Answer>,
    /// Routes.
    pub routes: Vec<Answer>,
    /// Neighbours.
    pub neighbours: Vec<Answer>,
}

/// An interface of the namespace that a guest can have.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostInterface {
    /// Its number in the namespace.
    pub index: u32,
    /// What the guest gets.
    pub plan: InterfacePlan,
}

/// What a guest gets of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct NetworkPlan {
    /// By their numbers.
    pub interfaces: Vec<HostInterface>,
    /// What it does not get, in words for the operator.
    pub left_out: Vec<String>,
}

impl NetworkPlan {
    /// What a guest gets. Interfaces that are down are none yet.
    #[must_use]
    pub fn new(facts: &NamespaceFacts) -> Self {
        let mut plan = Self::default();
        for link in facts.links.iter().filter_map(Link::parse).filter(Link::counts) {
            match link.mac {
                Some(mac) if link.kind == ETHERNET => {
                    plan.interfaces.push(interface(&link, mac, facts, &mut plan.left_out));
                }
                _ => plan.left_out.push(format!(
                    "the interface {}: it is no Ethernet, and a guest can have no other",
                    link.name
                )),
            }
        }
        if plan.count() > 0 && facts.routes.iter().any(is_through_no_interface) {
            plan.left_out.push("a route with several gateways, or with none".to_owned());
        }
        plan.interfaces.sort_by_key(|interface| interface.index);
        plan
    }

    /// How many interfaces there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.interfaces.len()
    }
}

/// What is known of a link.
struct Link {
    index: u32,
    kind: u16,
    flags: u32,
    name: String,
    mac: Option<[u8; 6]>,
    mtu: u32,
    is_tap: bool,
    ipv6: Option<Ipv6>,
}

struct Ipv6 {
    accept_ra: u8,
}

impl Link {
    fn parse(answer: &Answer) -> Option<Self> {
        let [_, _, k0, k1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = answer.fixed::<IFINFO_BYTES>()?;
        let mut link = Self {
            index: u32::from_le_bytes([i0, i1, i2, i3]),
            kind: u16::from_le_bytes([k0, k1]),
            flags: u32::from_le_bytes([f0, f1, f2, f3]),
            name: String::new(),
            mac: None,
            mtu: 0,
            is_tap: false,
            ipv6: None,
        };
        for (kind, value) in answer.attributes(IFINFO_BYTES) {
            match kind {
                libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_MTU => link.mtu = word(value).unwrap_or(0),
                libc::IFLA_LINKINFO => link.is_tap = is_tap(value),
                IFLA_AF_SPEC => link.ipv6 = ipv6(value),
                _ => {}
            }
        }
        Some(link)
    }

    /// Whether the container has it: what is up, but the loopback interface, which a guest has
    /// itself, and the taps that lead to guests. Somebody else's tap is an interface like any other.
    fn counts(&self) -> bool {
        let is = |flag: libc::c_int| self.flags & flag.cast_unsigned() != 0;
        let is_ours = self.is_tap && self.name.starts_with(TAP_NAME);
        is(libc::IFF_UP) && !is(libc::IFF_LOOPBACK) && !is_ours
    }
}

fn interface(
    link: &Link,
    mac: [u8; 6],
    facts: &NamespaceFacts,
    left_out: &mut Vec<String>,
) -> HostInterface {
    let index = link.index;
    let addresses = facts.addresses.iter().filter_map(|answer| address(answer, index));
    let neighbours = facts.neighbours.iter();
    let ipv6 = link.ipv6.is_some();
    let mut routes: Vec<_> =
        facts.routes.iter().filter_map(|answer| route(answer, index)).collect();
    let all = routes.len();
    routes.retain(|route| !route.attributes.iter().any(is_encapsulation));
    if routes.len() < all {
        left_out.push(format!("a route of {} that is encapsulated", link.name));
    }
    // A gateway is reached by a route that is there before.
    routes.sort_by_key(|route| route.attributes.iter().any(is_gateway));
    let plan = InterfacePlan {
        name: link.name.clone(),
        mac,
        mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
        ipv6,
        accept_ra: link.ipv6.as_ref().map_or(0, |ipv6| ipv6.accept_ra),
        settings: InterfaceSettings {
            addresses: addresses
                .filter(|address| ipv6 || address.family == libc::AF_INET as u8)
                .collect(),
            routes,
            neighbours: neighbours.filter_map(|answer| neighbour(answer, index)).collect(),
        },
    };
    HostInterface { index, plan }
}

/// A link that was looked for by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedLink {
    /// Its number.
    pub index: u32,
}

/// Whether an answer about links is about this one.
#[must_use]
pub fn named_link(answer: &Answer, name: &str) -> Option<NamedLink> {
    let link = Link::parse(answer).filter(|link| link.name == name)?;
    Some(NamedLink { index: link.index })
}

/// An address that an interface is to have again once it has moved to another namespace: of global
/// scope, and set by somebody.
#[must_use]
pub fn moving_address(answer: &Answer, of: u32) -> Option<AddressPlan> {
    let mut moved =
        address(answer, of).filter(|address| address.scope == libc::RT_SCOPE_UNIVERSE)?;
    // It names the interface, which may have another name there.
    moved.attributes.retain(|attribute| attribute.kind != libc::IFA_LABEL);
    Some(moved)
}

fn address(answer: &Answer, of: u32) -> Option<AddressPlan> {
    let [family, prefix_bits, low_flags, scope, i0, i1, i2, i3] = answer.fixed::<IFADDR_BYTES>()?;
    let told = |wanted| answer.attributes(IFADDR_BYTES).find(|(kind, _)| *kind == wanted);
    let flags = told(IFA_FLAGS).and_then(|(_, value)| word(value));
    let flags = flags.unwrap_or(low_flags.into());
    let by_router = told(IFA_PROTO).is_some_and(|(_, value)| value == [PROTO_ROUTER]);
    let temporary = family == libc::AF_INET6 as u8 && flags & FLAG_TEMPORARY != 0;
    if u32::from_le_bytes([i0, i1, i2, i3]) != of || by_router || temporary {
        return None;
    }
    let kept = [libc::IFA_ADDRESS, libc::IFA_LOCAL, libc::IFA_LABEL, libc::IFA_BROADCAST];
    let mut attributes = keep(answer.attributes(IFADDR_BYTES), |kind| {
        kept.contains(&kind) || kind == IFA_RT_PRIORITY
    });
    // Whether anybody else has it was found out on the host.
    let flags = flags & FLAG_NO_PREFIX_ROUTE | FLAG_NO_DAD;
    attributes.push(Attribute { kind: IFA_FLAGS, value: flags.to_le_bytes().to_vec() });
    Some(AddressPlan { family, prefix_bits, scope, attributes })
}

/// A route that somebody set: of the main table, and neither the kernel's own nor found out.
fn was_set(answer: &Answer) -> bool {
    let Some([family, _, _, _, table, protocol, _, _, f0, f1, f2, f3]) = answer.fixed() else {
        return false;
    };
    let is_ip = [libc::AF_INET, libc::AF_INET6].contains(&family.into());
    let cached = u32::from_le_bytes([f0, f1, f2, f3]) & CLONED != 0;
    is_ip && table == libc::RT_TABLE_MAIN && ![KERNELS, OF_ROUTER].contains(&protocol) && !cached
}

fn interface_of(answer: &Answer) -> Option<u32> {
    let (_, value) = answer.attributes(ROUTE_BYTES).find(|(kind, _)| *kind == libc::RTA_OIF)?;
    word(value)
}

fn is_through_no_interface(answer: &Answer) -> bool {
    was_set(answer) && interface_of(answer).is_none()
}

fn route(answer: &Answer, of: u32) -> Option<RoutePlan> {
    let [family, destination_bits, _, tos, _, protocol, scope, kind, f0, f1, f2, f3] =
        answer.fixed::<ROUTE_BYTES>()?;
    if !was_set(answer) || interface_of(answer) != Some(of) {
        return None;
    }
    let kept = [libc::RTA_DST, libc::RTA_GATEWAY, libc::RTA_PRIORITY, libc::RTA_PREFSRC];
    let attributes = keep(answer.attributes(ROUTE_BYTES), |kind| {
        kept.contains(&kind)
            || [libc::RTA_METRICS, RTA_VIA, RTA_PREF, RTA_ENCAP_TYPE].contains(&kind)
    });
    let flags = u32::from_le_bytes([f0, f1, f2, f3]) & ONLINK;
    Some(RoutePlan { family, destination_bits, tos, protocol, scope, kind, flags, attributes })
}

fn is_gateway(attribute: &Attribute) -> bool {
    attribute.kind == libc::RTA_GATEWAY || attribute.kind == RTA_VIA
}

fn is_encapsulation(attribute: &Attribute) -> bool {
    attribute.kind == RTA_ENCAP_TYPE
}

fn neighbour(answer: &Answer, of: u32) -> Option<NeighbourPlan> {
    let [family, _, _, _, i0, i1, i2, i3, s0, s1, flags, _] = answer.fixed::<NEIGHBOUR_BYTES>()?;
    let state = u16::from_le_bytes([s0, s1]);
    let is_ip = [libc::AF_INET, libc::AF_INET6].contains(&family.into());
    if u32::from_le_bytes([i0, i1, i2, i3]) != of || !is_ip || state != PERMANENT {
        return None;
    }
    let attributes = keep(answer.attributes(NEIGHBOUR_BYTES), |kind| {
        kind == libc::NDA_DST || kind == libc::NDA_LLADDR
    });
    Some(NeighbourPlan { family, state, flags, attributes })
}

fn keep<'a>(
    all: impl Iterator<Item = (u16, &'a [u8])>,
    wanted: impl Fn(u16) -> bool,
) -> Vec<Attribute> {
    all.filter(|(kind, _)| wanted(*kind))
        .map(|(kind, value)| Attribute { kind, value: value.to_vec() })
        .collect()
}

fn is_tap(info: &[u8]) -> bool {
    attributes(info).any(|(kind, value)| kind == IFLA_INFO_KIND && text(value) == "tun")
}

/// IPv6's part of a link; `None` where it is switched off, or unknown to the kernel.
fn ipv6(families: &[u8]) -> Option<Ipv6> {
    let (_, family) = attributes(families).find(|(kind, _)| *kind == IPV6)?;
    let (_, values) = attributes(family).find(|(kind, _)| *kind == IFLA_INET6_CONF)?;
    let value = |place: usize| word(values.get(4 * place..)?);
    if value(DISABLE_IPV6) != Some(0) {
        return None;
    }
    Some(Ipv6 { accept_ra: value(ACCEPT_RA).and_then(|value| value.try_into().ok()).unwrap_or(1) })
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETH0: u32 = 2;
    const UP: u32 = 1;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = (4 + value.len()) as u16;
        let mut bytes = [&length.to_le_bytes()[..], &kind.to_le_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn answer(fixed: &[u8], attributes: &[Vec<u8>]) -> Answer {
        Answer { kind: 0, content: [fixed, &attributes.concat()].concat() }
    }

    fn link(index: u32, name: &str, kind: u16, flags: u32, more: &[Vec<u8>]) -> Answer {
        let mut fixed = [0; IFINFO_BYTES];
        fixed[2..4].copy_from_slice(&kind.to_le_bytes());
        fixed[4..8].copy_from_slice(&index.to_le_bytes());
        fixed[8..12].copy_from_slice(&flags.to_le_bytes());
        let mut attributes = vec![
            attribute(libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat()),
            attribute(libc::IFLA_MTU, &1450_u32.to_le_bytes()),
        ];
        attributes.extend(more.iter().cloned());
        answer(&fixed, &attributes)
    }

    fn mac() -> Vec<u8> {
        attribute(libc::IFLA_ADDRESS, &[2, 0, 0, 0, 0, 7])
    }

    fn with_ipv6(accept_ra: u32, disabled: u32) -> Vec<u8> {
        let mut values = vec![0; 4 * 60];
        values[4 * ACCEPT_RA..][..4].copy_from_slice(&accept_ra.to_le_bytes());
        values[4 * DISABLE_IPV6..][..4].copy_from_slice(&disabled.to_le_bytes());
        attribute(IFLA_AF_SPEC, &attribute(IPV6, &attribute(IFLA_INET6_CONF, &values)))
    }

    fn eth0(ipv6: Vec<u8>) -> NamespaceFacts {
        let links = vec![link(ETH0, "eth0", ETHERNET, UP, &[mac(), ipv6])];
        NamespaceFacts { links, ..NamespaceFacts::default() }
    }

    fn only(facts: &NamespaceFacts) -> InterfacePlan {
        let plan = NetworkPlan::new(facts);
        assert_eq!((plan.count(), plan.left_out.len()), (1, 0));
        plan.interfaces[0].plan.clone()
    }

    fn kinds(attributes: &[Attribute]) -> Vec<u16> {
        attributes.iter().map(|attribute| attribute.kind).collect()
    }

    #[test]
    fn an_interface_that_is_up_is_the_guests() {
        let plan = only(&eth0(with_ipv6(2, 0)));
        assert_eq!((plan.name.as_str(), plan.mac, plan.mtu), ("eth0", [2, 0, 0, 0, 0, 7], 1450));
        assert_eq!((plan.ipv6, plan.accept_ra), (true, 2));
        assert!(!only(&eth0(with_ipv6(1, 1))).ipv6);
        assert!(!only(&eth0(vec![])).ipv6);
    }

    #[test]
    fn what_is_down_or_leads_to_a_guest_or_back_is_none() {
        let tap = attribute(libc::IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, b"tun\0"));
        let loopback = libc::IFF_LOOPBACK.cast_unsigned();
        let links = vec![
            link(1, "lo", libc::ARPHRD_LOOPBACK, UP | loopback, &[mac()]),
            link(2, "eth0", ETHERNET, 0, &[mac()]),
            link(3, "cofferdam0", ETHERNET, UP, &[mac(), tap]),
        ];
        let plan = NetworkPlan::new(&NamespaceFacts { links, ..NamespaceFacts::default() });
        assert_eq!(plan, NetworkPlan::default());
    }

    #[test]
    fn somebody_elses_tap_is_an_interface() {
        let tap = attribute(libc::IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, b"tun\0"));
        let links = vec![link(ETH0, "tap0", ETHERNET, UP, &[mac(), tap])];
        let plan = only(&NamespaceFacts { links, ..NamespaceFacts::default() });
        assert_eq!(plan.name, "tap0");
    }

    #[test]
    fn an_interface_that_no_guest_can_have_is_told_of() {
        let links = vec![link(2, "wg0", libc::ARPHRD_NONE, UP, &[])];
        let plan = NetworkPlan::new(&NamespaceFacts { links, ..NamespaceFacts::default() });
        assert_eq!(plan.count(), 0);
        assert!(plan.left_out[0].contains("wg0"), "{:?}", plan.left_out);
    }

    fn address_of(family: i32, index: u32, more: &[Vec<u8>]) -> Answer {
        let [i0, i1, i2, i3] = index.to_le_bytes();
        answer(&[family as u8, 24, 0x80, 0, i0, i1, i2, i3], more)
    }

    #[test]
    fn addresses_are_carried_over_without_what_belongs_to_the_host() {
        let own = [
            attribute(libc::IFA_ADDRESS, &[192, 0, 2, 2]),
            attribute(libc::IFA_CACHEINFO, &[0; 16]),
            attribute(IFA_FLAGS, &(0x80 | FLAG_NO_PREFIX_ROUTE).to_le_bytes()),
        ];
        let by_router = [attribute(IFA_PROTO, &[PROTO_ROUTER])];
        let temporary = [attribute(IFA_FLAGS, &FLAG_TEMPORARY.to_le_bytes())];
        let facts = NamespaceFacts {
            addresses: vec![
                address_of(libc::AF_INET, ETH0, &own),
                address_of(libc::AF_INET, ETH0 + 1, &own),
                address_of(libc::AF_INET6, ETH0, &by_router),
                address_of(libc::AF_INET6, ETH0, &temporary),
            ],
            ..eth0(with_ipv6(1, 0))
        };
        let plan = only(&facts);
        let [address] = &*plan.settings.addresses else { panic!("{:?}", plan.settings) };
        assert_eq!((address.prefix_bits, address.scope), (24, 0));
        assert_eq!(kinds(&address.attributes), [libc::IFA_ADDRESS, IFA_FLAGS]);
        let flags = FLAG_NO_PREFIX_ROUTE | FLAG_NO_DAD;
        assert_eq!(address.attributes[1].value, flags.to_le_bytes());
    }

    #[test]
    fn an_interface_without_ipv6_has_no_such_address() {
        let addresses = vec![address_of(libc::AF_INET6, ETH0, &[])];
        let facts = NamespaceFacts { addresses, ..eth0(with_ipv6(1, 1)) };
        assert_eq!(only(&facts).settings.addresses, []);
    }

    fn route_with(protocol: u8, flags: u32, more: &[Vec<u8>]) -> Answer {
        let [f0, f1, f2, f3] = flags.to_le_bytes();
        let table = libc::RT_TABLE_MAIN;
        let head = [libc::AF_INET as u8, 24, 0, 0, table, protocol, 0, libc::RTN_UNICAST];
        answer(&[&head[..], &[f0, f1, f2, f3]].concat(), more)
    }

    #[test]
    fn routes_are_carried_over_those_with_a_gateway_last() {
        let out = attribute(libc::RTA_OIF, &ETH0.to_le_bytes());
        let other = attribute(libc::RTA_OIF, &9_u32.to_le_bytes());
        let gateway = attribute(libc::RTA_GATEWAY, &[192, 0, 2, 1]);
        let to = attribute(libc::RTA_DST, &[198, 51, 100, 0]);
        let cache = attribute(libc::RTA_CACHEINFO, &[0; 32]);
        let facts = NamespaceFacts {
            routes: vec![
                route_with(3, ONLINK | 0x10, &[gateway, out.clone()]),
                route_with(3, 0, &[to.clone(), out.clone(), cache]),
                // The kernel's own, a router's, a cached one, another interface's.
                route_with(KERNELS, 0, &[to.clone(), out.clone()]),
                route_with(OF_ROUTER, 0, &[to.clone(), out.clone()]),
                route_with(3, CLONED, &[to.clone(), out]),
                route_with(3, 0, &[to, other]),
            ],
            ..eth0(vec![])
        };
        let plan = only(&facts);
        let routes = plan.settings.routes.iter();
        let routes: Vec<_> = routes.map(|route| (route.flags, kinds(&route.attributes))).collect();
        assert_eq!(routes, [(0, vec![libc::RTA_DST]), (ONLINK, vec![libc::RTA_GATEWAY])]);
    }

    #[test]
    fn a_route_that_is_not_carried_over_is_told_of() {
        let out = attribute(libc::RTA_OIF, &ETH0.to_le_bytes());
        let encapsulated = attribute(RTA_ENCAP_TYPE, &[1, 0]);
        let nowhere = attribute(libc::RTA_DST, &[10, 0, 0, 0]);
        let routes = vec![route_with(3, 0, &[out, encapsulated]), route_with(3, 0, &[nowhere])];
        let plan = NetworkPlan::new(&NamespaceFacts { routes, ..eth0(vec![]) });
        assert_eq!(plan.interfaces[0].plan.settings.routes, []);
        let told =
            ["a route of eth0 that is encapsulated", "a route with several gateways, or with none"];
        assert_eq!(plan.left_out, told);
    }

    #[test]
    fn only_neighbours_that_were_said_are_carried_over() {
        let neighbour = |state: u16| {
            let ([i0, i1, i2, i3], [s0, s1]) = (ETH0.to_le_bytes(), state.to_le_bytes());
            let fixed = [libc::AF_INET as u8, 0, 0, 0, i0, i1, i2, i3, s0, s1, 0, 0];
            answer(&fixed, &[attribute(libc::NDA_DST, &[192, 0, 2, 1])])
        };
        let neighbours = vec![neighbour(PERMANENT), neighbour(0x02), neighbour(0x40)];
        let plan = only(&NamespaceFacts { neighbours, ..eth0(vec![]) });
        assert_eq!(plan.settings.neighbours.len(), 1);
    }

    #[test]
    fn what_moves_with_an_interface_is_of_global_scope_and_without_its_name() {
        let label = attribute(libc::IFA_LABEL, b"nd0\0");
        let own = [attribute(libc::IFA_LOCAL, &[192, 0, 2, 2]), label];
        let moved = moving_address(&address_of(libc::AF_INET, ETH0, &own), ETH0).unwrap();
        assert_eq!(kinds(&moved.attributes), [libc::IFA_LOCAL, IFA_FLAGS]);
        let mut on_link = address_of(libc::AF_INET6, ETH0, &own);
        on_link.content[3] = libc::RT_SCOPE_LINK;
        assert_eq!(moving_address(&on_link, ETH0), None);
        let links = eth0(vec![]).links;
        assert_eq!(named_link(&links[0], "eth0"), Some(NamedLink { index: ETH0 }));
        assert_eq!(named_link(&links[0], "eth1"), None);
    }

    #[test]
    fn an_answer_that_is_cut_short_is_none() {
        let full = link(ETH0, "eth0", ETHERNET, UP, &[mac(), with_ipv6(1, 0)]);
        for length in 0..full.content.len() {
            let content = full.content[..length].to_vec();
            let links = vec![Answer { kind: 0, content }];
            assert!(NetworkPlan::new(&NamespaceFacts { links, ..Default::default() }).count() <= 1);
        }
    }
}
