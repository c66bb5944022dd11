//! From the interfaces that a guest has to those that it is to have.
//!
//! An interface is known by its number on the host, which the kernel gives to no other soon. What of one
//! cannot become another while it is in use (its name, whether there is IPv6) makes it a new one.

use cofferdam_protocol::network::{InterfaceChange, InterfacePlan};

use super::network::HostInterface;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkStep {
    /// The interface of this number goes.
    Remove(u32),
    /// It becomes another.
    Change {
        /// What it is to be.
        interface: HostInterface,
        /// What that takes.
        change: InterfaceChange,
    },
    /// It comes.
    Add(HostInterface),
}

/// What is to be done, in this order: what goes leaves its place, and its addresses, to what comes.
#[must_use]
pub fn steps(has: &[HostInterface], wanted: &[HostInterface]) -> Vec<NetworkStep> {
    let (mut steps, mut changes, mut additions) = (Vec::new(), Vec::new(), Vec::new());
    for interface in has {
        match find(wanted, interface.index) {
            Some(wanted) if can_become(&interface.plan, &wanted.plan) => {
                changes.extend(change(interface, wanted));
            }
            other => {
                steps.push(NetworkStep::Remove(interface.index));
                additions.extend(other.cloned().map(NetworkStep::Add));
            }
        }
    }
    let is_new = |interface: &&HostInterface| find(has, interface.index).is_none();
    additions.extend(wanted.iter().filter(is_new).cloned().map(NetworkStep::Add));
    steps.extend(changes);
    steps.extend(additions);
    steps
}

fn find(interfaces: &[HostInterface], index: u32) -> Option<&HostInterface> {
    interfaces.iter().find(|interface| interface.index == index)
}

fn can_become(has: &InterfacePlan, wanted: &InterfacePlan) -> bool {
    (&has.name, has.ipv6) == (&wanted.name, wanted.ipv6)
}

fn change(has: &HostInterface, wanted: &HostInterface) -> Option<NetworkStep> {
    if has == wanted {
        return None;
    }
    let (old, new) = (&has.plan, &wanted.plan);
    let change = InterfaceChange {
        mac: (old.mac != new.mac).then_some(new.mac),
        mtu: (old.mtu != new.mtu).then_some(new.mtu),
        accept_ra: (old.accept_ra != new.accept_ra).then_some(new.accept_ra),
        gone: old.settings.without(&new.settings),
        settings: new.settings.clone(),
    };
    Some(NetworkStep::Change { interface: wanted.clone(), change })
}

#[cfg(test)]
mod tests {
    use cofferdam_protocol::netlink::Attribute;
    use cofferdam_protocol::network::{AddressPlan, InterfaceSettings};

    use super::*;

    fn address(last: u8) -> AddressPlan {
        let attributes = vec![Attribute { kind: 1, value: vec![192, 0, 2, last] }];
        AddressPlan { family: 2, prefix_bits: 24, scope: 0, attributes }
    }

    fn interface(index: u32, addresses: &[u8]) -> HostInterface {
        let addresses = addresses.iter().copied().map(address).collect();
        let plan = InterfacePlan {
            name: format!("eth{index}"),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            ipv6: true,
            accept_ra: 1,
            settings: InterfaceSettings { addresses, ..InterfaceSettings::default() },
        };
        HostInterface { index, plan }
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        let same = [interface(2, &[7]), interface(3, &[])];
        assert_eq!(steps(&same, &same), []);
        assert_eq!(steps(&[], &[]), []);
    }

    #[test]
    fn what_goes_goes_before_anything_comes() {
        let (old, new) = (interface(2, &[7]), interface(4, &[7]));
        let kept = interface(3, &[8]);
        let steps = steps(&[old, kept.clone()], &[kept, new.clone()]);
        assert_eq!(steps, [NetworkStep::Remove(2), NetworkStep::Add(new)]);
    }

    #[test]
    fn a_change_says_what_is_gone_and_everything_that_is_to_be() {
        let (old, mut new) = (interface(2, &[7, 8]), interface(2, &[8, 9]));
        new.plan.mtu = 1400;
        let [NetworkStep::Change { interface, change }] = &steps(&[old], &[new.clone()])[..] else {
            panic!("no change");
        };
        assert_eq!(*interface, new);
        assert_eq!((change.mac, change.mtu, change.accept_ra), (None, Some(1400), None));
        assert_eq!(change.gone.addresses, [address(7)]);
        assert_eq!(change.settings, new.plan.settings);
    }

    #[test]
    fn an_ethernet_address_and_what_routers_are_believed_change_in_use() {
        let (old, mut new) = (interface(2, &[]), interface(2, &[]));
        new.plan.mac[5] = 2;
        new.plan.accept_ra = 2;
        let [NetworkStep::Change { change, .. }] = &steps(&[old], &[new.clone()])[..] else {
            panic!("no change");
        };
        assert_eq!((change.mac, change.accept_ra), (Some(new.plan.mac), Some(2)));
    }

    #[test]
    fn another_name_and_another_choice_of_ipv6_make_a_new_interface() {
        let old = interface(2, &[7]);
        let (mut renamed, mut without) = (old.clone(), old.clone());
        renamed.plan.name = "net0".to_owned();
        without.plan.ipv6 = false;
        for new in [renamed, without] {
            let expected = [NetworkStep::Remove(2), NetworkStep::Add(new.clone())];
            assert_eq!(steps(std::slice::from_ref(&old), &[new]), expected);
        }
    }
}
