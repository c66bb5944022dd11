//! Several pairs of queues.

use super::*;

/// A control queue, and several pairs.
const SEVERAL: u64 = features::CONTROL | features::PAIRS;

#[test]
fn a_device_has_a_pair_of_queues_for_each_of_its_tap_s_and_one_to_be_asked_by() {
    assert_eq!(queue_sizes(1), [256, 256]);
    assert_eq!(queue_sizes(2), [256, 256, 256, 256, 16]);
    let guest = Guest::with_pairs(3, SEVERAL);
    assert_eq!(guest.driver.registered(0x108) & 0xffff, 3);
    let poller = Arc::new(Poller::open().unwrap());
    let refused = open(poller, OWNER, Vec::new(), CONFIG).unwrap_err();
    assert!(matches!(refused, OpenError::Queues(0)));
}

#[test]
fn what_comes_by_any_queue_of_the_tap_s_reaches_a_driver_of_one_pair() {
    // One that knows of several and has not asked for them yet, and one that does not.
    for features in [SEVERAL, 0] {
        let mut guest = Guest::with_pairs(3, features);
        guest.offer_to(0, 6, 1600);
        guest.offer_to(1, 6, 1600);
        for queue in [0, 1, 2, 1] {
            guest.host_sends_by(queue, &content(60));
        }
        assert_eq!((guest.came_by(0), guest.came_by(1)), (4, 0));
    }
}

#[test]
fn pairs_that_the_driver_asks_for_serve_the_tap_s_queues_between_them() {
    let mut guest = Guest::with_pairs(3, SEVERAL);
    for pair in 0..3 {
        guest.offer_to(pair, 6, 1600);
    }
    let mut frames_by_pair = |wanted: u8| {
        assert_eq!(guest.ask(&[4, 0, wanted, 0]), 0);
        (0..3).for_each(|queue| guest.host_sends_by(queue, &content(60)));
        [0, 1, 2].map(|pair| guest.came_by(pair))
    };
    assert_eq!(frames_by_pair(2), [2, 1, 0]);
    assert_eq!(frames_by_pair(3), [1, 1, 1]);
    assert_eq!(frames_by_pair(1), [3, 0, 0]);
}

#[test]
fn frames_that_waited_for_a_pair_come_when_another_serves_their_queue() {
    let mut guest = Guest::with_pairs(2, SEVERAL);
    guest.offer_to(1, 2, 1600);
    // The only pair in use has no buffers.
    guest.host_sends_by(1, &content(60));
    assert_eq!(guest.came_by(1), 0);
    assert_eq!(guest.ask(&[4, 0, 2, 0]), 0);
    assert_eq!(guest.came_by(1), 1);
}

#[test]
fn each_pair_sends_by_the_tap_s_queue_of_its_number() {
    let mut guest = Guest::with_pairs(2, SEVERAL);
    guest.driver.write(BUFFERS, &[0; 80]);
    for pair in 0..2 {
        let piece = Piece { address: BUFFERS, length: 72 + pair as u32, writable: false };
        guest.driver.offer(2 * pair + 1, &[piece]).unwrap();
        guest.turn();
    }
    let lengths = [0, 1].map(|queue| guest.host_hears_by(queue).map(|frame| frame.len()));
    assert_eq!(lengths, [Some(72), Some(73)]);
}

#[test]
fn what_cannot_be_asked_for_is_refused_and_changes_nothing() {
    let mut guest = Guest::with_pairs(2, SEVERAL);
    assert_eq!(guest.ask(&[4, 0, 2, 0]), 0);
    // No pair, too many, other commands, too short a one.
    for command in [&[4, 0, 0, 0][..], &[4, 0, 3, 0], &[4, 0, 2, 1], &[4, 1, 1, 0], &[0, 0, 1, 0]] {
        assert_eq!(guest.ask(command), 1, "{command:?}");
    }
    assert_eq!(guest.ask(&[4, 0, 1]), 1);
    guest.offer_to(1, 1, 1600);
    guest.host_sends_by(1, &content(60));
    assert_eq!(guest.came_by(1), 1);
}
