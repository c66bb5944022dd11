//! What can be agreed with a network driver (virtio 1.2, section 5.1.3), and what that means for
//! the tap.

use crate::device::FEATURE_INDIRECT;

/// The guest leaves checksums to the host.
pub(super) const CSUM: u64 = 1;
/// The guest takes frames whose checksum is still to be made.
pub(super) const GUEST_CSUM: u64 = 1 << 1;
/// The device says how long packets may be.
const MTU: u64 = 1 << 3;
/// The device says which address it has.
const MAC: u64 = 1 << 5;
/// The guest takes TCP over IPv4 uncut.
pub(super) const GUEST_TSO4: u64 = 1 << 7;
/// The same over IPv6.
pub(super) const GUEST_TSO6: u64 = 1 << 8;
/// The same with congestion said.
const GUEST_ECN: u64 = 1 << 9;
/// The guest sends TCP over IPv4 uncut.
pub(super) const HOST_TSO4: u64 = 1 << 11;
/// The same over IPv6.
pub(super) const HOST_TSO6: u64 = 1 << 12;
/// The same with congestion said.
pub(super) const HOST_ECN: u64 = 1 << 13;
/// A frame may lie in several buffers.
pub(super) const MERGEABLE: u64 = 1 << 15;
/// The device says whether the link is up.
const STATUS: u64 = 1 << 16;
/// There is a control queue.
pub(super) const CONTROL: u64 = 1 << 17;
/// There are several pairs of queues, and the driver says how many it uses.
pub(super) const PAIRS: u64 = 1 << 22;
/// The guest takes UDP over IPv4 uncut.
const GUEST_USO4: u64 = 1 << 54;
/// The same over IPv6.
const GUEST_USO6: u64 = 1 << 55;
/// The guest sends UDP uncut.
pub(super) const HOST_USO: u64 = 1 << 56;

/// What the kernel of every tap can do.
const ALWAYS: u64 = FEATURE_INDIRECT
    | CSUM
    | GUEST_CSUM
    | MTU
    | MAC
    | GUEST_TSO4
    | GUEST_TSO6
    | GUEST_ECN
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | MERGEABLE
    | STATUS;
const UNCUT_UDP: u64 = GUEST_USO4 | GUEST_USO6 | HOST_USO;

/// Which features of the driver's are which flags of the tap's (`TUN_F_*`).
const OF_TAP: [(u64, u32); 6] = [
    (GUEST_CSUM, 0x01),
    (GUEST_TSO4, 0x02),
    (GUEST_TSO6, 0x04),
    (GUEST_ECN, 0x08),
    (GUEST_USO4, 0x20),
    (GUEST_USO6, 0x40),
];

/// What is on offer with so many pairs of queues.
pub(super) const fn offered(uncut_udp: bool, pairs: usize) -> u64 {
    let udp = if uncut_udp { UNCUT_UDP } else { 0 };
    let several = if pairs > 1 { CONTROL | PAIRS } else { 0 };
    ALWAYS | udp | several
}

/// Which queue is the control queue of a driver that accepted this: it comes after all pairs, or
/// after the only one (section 5.1.2).
pub(super) fn control_queue(accepted: u64, pairs: usize) -> Option<usize> {
    let pairs = if accepted & PAIRS != 0 { pairs } else { 1 };
    (accepted & CONTROL != 0).then_some(2 * pairs)
}

/// What the tap is to know of a driver that accepted this.
pub(super) fn of_tap(accepted: u64) -> u32 {
    // Nothing can be left uncut of what must have its checksum made.
    if accepted & GUEST_CSUM == 0 {
        return 0;
    }
    OF_TAP
        .iter()
        .filter(|(feature, _)| accepted & feature != 0)
        .fold(0, |all, (_, flag)| all | flag)
}

/// Whether frames may come that are longer than the link's.
pub(super) const fn takes_uncut(accepted: u64) -> bool {
    accepted & (GUEST_TSO4 | GUEST_TSO6 | GUEST_USO4 | GUEST_USO6) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_is_told_what_its_driver_accepted() {
        assert_eq!(of_tap(0), 0);
        assert_eq!(of_tap(GUEST_CSUM | HOST_TSO4), 0x01);
        assert_eq!(of_tap(offered(false, 1)), 0x0f);
        assert_eq!(of_tap(offered(true, 4)), 0x6f);
        assert_eq!(of_tap(GUEST_TSO4), 0);
    }

    #[test]
    fn several_pairs_are_offered_where_there_are_several() {
        let several = CONTROL | PAIRS;
        assert_eq!(offered(false, 1) & several, 0);
        assert_eq!(offered(false, 2) & several, several);
    }

    #[test]
    fn the_control_queue_comes_after_the_pairs_that_were_agreed() {
        assert_eq!(control_queue(0, 4), None);
        assert_eq!(control_queue(PAIRS, 4), None);
        assert_eq!(control_queue(CONTROL, 4), Some(2));
        assert_eq!(control_queue(CONTROL | PAIRS, 4), Some(8));
    }
}
