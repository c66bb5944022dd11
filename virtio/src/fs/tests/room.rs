//! A guest that remembers more than the server has descriptors for.

use std::fs;

use fuse_backend_rs::api::filesystem::{FileSystem, ROOT_ID};

use super::fixture::{RDONLY, ROOT, Served, c, errno};

/// The root, two files and one that is open.
const ROOM: usize = 4;

fn full() -> (Served, u64) {
    let served = Served::with_room_for(ROOM);
    for name in ["a", "b", "c"] {
        fs::write(served.path(name), name).unwrap();
    }
    let first = served.find("a");
    served.find("b");
    served.open(first, RDONLY);
    (served, first)
}

#[test]
fn beyond_the_bound_nothing_is_looked_up_opened_or_made() {
    let (served, first) = full();
    assert_eq!(errno(served.tree.lookup(&ROOT, ROOT_ID, &c("c"))), libc::ENFILE);
    assert_eq!(errno(served.tree.open(&ROOT, first, RDONLY, 0)), libc::ENFILE);
    assert_eq!(errno(served.tree.mkdir(&ROOT, ROOT_ID, &c("new"), 0o755, 0)), libc::ENFILE);
    assert!(!served.path("new").exists(), "made, and refused all the same");
}

#[test]
fn what_is_known_can_be_used_and_looked_up_again() {
    let (served, first) = full();
    assert_eq!(served.find("a"), first);
    assert_eq!(errno(served.tree.getattr(&ROOT, first, None)), 0);
    assert_eq!(errno(served.tree.unlink(&ROOT, ROOT_ID, &c("c"))), 0);
}

#[test]
fn what_is_forgotten_makes_room() {
    let (served, _) = full();
    let second = served.find("b");
    served.tree.forget(&ROOT, second, 2);
    let third = served.find("c");
    assert_eq!(errno(served.tree.open(&ROOT, third, RDONLY, 0)), libc::ENFILE);
}

#[test]
fn what_is_looked_up_and_forgotten_again_and_again_takes_no_more() {
    const FILES: u64 = 200;
    let served = Served::new();
    let names: Vec<String> = (0..FILES).map(|number| format!("file-{number}")).collect();
    names.iter().for_each(|name| fs::write(served.path(name), "").unwrap());
    for _ in 0..50 {
        let numbers: Vec<u64> = names.iter().map(|name| served.find(name)).collect();
        // Numbers are used again: the tables are as large as at the first time.
        assert!(numbers.iter().all(|number| *number <= FILES + 1), "{numbers:?}");
        assert_eq!(served.tree.state().used() as u64, FILES + 1);
        numbers.iter().for_each(|number| served.tree.forget(&ROOT, *number, 1));
        assert_eq!(served.tree.state().used(), 1, "the root");
    }
}
