//! The header in front of each frame (virtio 1.2, section 5.1.6): what is left to be done to it.
//!
//! Hostile: the guest's. It goes on to the host's kernel, which checks it as well; what comes from
//! here says nothing that the frame has no room for, and asks for nothing that was not agreed.

use super::features;

/// The header of virtio 1.0 and later: with the number of buffers, whatever was agreed.
pub(super) const HEADER_BYTES: usize = 12;
/// Where the number of buffers stands in it.
pub(super) const BUFFERS_OFFSET: usize = 10;
/// The largest IP packet in an Ethernet frame with two VLAN tags. A guest could otherwise have the
/// host's kernel copy any amount for it.
pub(super) const MAX_FRAME_BYTES: usize = 65_535 + 14 + 8;
/// An Ethernet header.
const MIN_FRAME_BYTES: usize = 14;

const NEEDS_CHECKSUM: u8 = 1;
const WHOLE: u8 = 0;
const TCP4: u8 = 1;
const TCP6: u8 = 4;
const UDP: u8 = 5;
/// Beside a TCP type: the segments say that there is congestion.
const CONGESTION: u8 = 0x80;

/// A guest's header for a frame of this length, as it may go on; `None` when the frame must not.
pub(super) fn checked(
    guest: [u8; HEADER_BYTES],
    frame: usize,
    accepted: u64,
) -> Option<[u8; HEADER_BYTES]> {
    if !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&frame) {
        return None;
    }
    let [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1, ..] = guest;
    let word = |low, high| usize::from(u16::from_le_bytes([low, high]));
    let needs_checksum = flags & NEEDS_CHECKSUM != 0;
    if needs_checksum {
        let end = word(c0, c1) + word(o0, o1) + size_of::<u16>();
        if accepted & features::CSUM == 0 || end > frame {
            return None;
        }
    }
    let (header, segment) = (word(h0, h1), word(s0, s1));
    let mut clean = [0; HEADER_BYTES];
    clean[0] = flags & NEEDS_CHECKSUM;
    if kind != WHOLE {
        if !may_be_cut(kind, accepted) || !needs_checksum || segment == 0 || header > frame {
            return None;
        }
        clean[1..6].copy_from_slice(&[kind, h0, h1, s0, s1]);
    }
    if needs_checksum {
        clean[6..10].copy_from_slice(&[c0, c1, o0, o1]);
    }
    Some(clean)
}

/// Whether it was agreed that frames of this kind are cut by the host.
fn may_be_cut(kind: u8, accepted: u64) -> bool {
    let congestion = if kind & CONGESTION == 0 { 0 } else { features::HOST_ECN };
    let needed = match kind & !CONGESTION {
        TCP4 => features::HOST_TSO4 | congestion,
        TCP6 => features::HOST_TSO6 | congestion,
        UDP if congestion == 0 => features::HOST_USO,
        _ => return false,
    };
    accepted & needed == needed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: u64 = features::CSUM | features::HOST_TSO4 | features::HOST_TSO6;

    fn header(flags: u8, kind: u8, words: [u16; 4]) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..2].copy_from_slice(&[flags, kind]);
        for (place, word) in header[2..10].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        header
    }

    #[test]
    fn what_was_agreed_goes_on_as_it_is() {
        let whole = header(0, 0, [0; 4]);
        assert_eq!(checked(whole, 60, 0), Some(whole));
        let unfinished = header(1, 0, [0, 0, 34, 16]);
        assert_eq!(checked(unfinished, 60, ALL), Some(unfinished));
        for kind in [TCP4, TCP6] {
            let long = header(1, kind, [66, 1448, 34, 16]);
            assert_eq!(checked(long, 9000, ALL), Some(long));
        }
    }

    #[test]
    fn what_was_not_agreed_is_dropped() {
        assert_eq!(checked(header(1, 0, [0, 0, 34, 16]), 60, 0), None);
        assert_eq!(checked(header(1, TCP4, [66, 1448, 34, 16]), 9000, features::CSUM), None);
        assert_eq!(checked(header(1, UDP, [42, 1448, 34, 6]), 9000, ALL), None);
        assert_eq!(checked(header(1, TCP4 | CONGESTION, [66, 1448, 34, 16]), 9000, ALL), None);
        // What no guest may send: a type that is none, the old way to cut UDP.
        for kind in [2, 3, 6, CONGESTION] {
            assert_eq!(checked(header(1, kind, [66, 1448, 34, 16]), 9000, u64::MAX), None);
        }
    }

    #[test]
    fn what_the_frame_has_no_room_for_is_dropped() {
        assert_eq!(checked(header(1, 0, [0, 0, 43, 16]), 60, ALL), None);
        assert_eq!(checked(header(1, 0, [0, 0, u16::MAX, u16::MAX]), 60, ALL), None);
        assert_eq!(checked(header(1, TCP4, [9001, 1448, 34, 16]), 9000, ALL), None);
        assert_eq!(checked(header(1, TCP4, [66, 0, 34, 16]), 9000, ALL), None);
        assert_eq!(checked(header(0, TCP4, [66, 1448, 34, 16]), 9000, ALL), None);
        for length in [0, MIN_FRAME_BYTES - 1, MAX_FRAME_BYTES + 1, usize::MAX] {
            assert_eq!(checked(header(0, 0, [0; 4]), length, ALL), None);
        }
    }

    proptest! {
        #[test]
        fn what_goes_on_lies_within_the_frame(bytes: [u8; HEADER_BYTES], frame in 0usize..70_000) {
            if let Some(clean) = checked(bytes, frame, u64::MAX) {
                let word = |at: usize| usize::from(u16::from_le_bytes([clean[at], clean[at + 1]]));
                prop_assert!(word(2) <= frame);
                prop_assert!(word(6) + word(8) + 2 <= frame || clean[0] == 0);
                prop_assert!(clean[1] == 0 || word(4) > 0);
                prop_assert_eq!(&clean[10..], &[0, 0]);
            }
        }
    }
}
