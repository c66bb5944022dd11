//! Device nodes, made by a server without the right to make any.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use fuse_backend_rs::api::filesystem::{Context, Entry, FileSystem, ListxattrReply, ROOT_ID};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::fixture::{RDONLY, ROOT, Served, c, errno};

const NULL: u32 = 0x0103;
const CHARACTER: u32 = libc::S_IFCHR;
const BLOCK: u32 = libc::S_IFBLK;

/// As in the jail: this thread, and so the server, cannot make nodes.
fn without_the_right() -> Served {
    let own = capabilities(None).unwrap();
    let effective = own.effective - CapabilitySet::MKNOD;
    set_capabilities(None, CapabilitySets { effective, ..own }).unwrap();
    Served::new()
}

fn made(served: &Served, name: &str, mode: u32) -> Entry {
    served.tree.mknod(&ROOT, ROOT_ID, &c(name), mode, NULL, 0).unwrap()
}

#[test]
fn the_guest_sees_a_node_and_the_host_an_empty_file() {
    let served = without_the_right();
    for (name, mode) in [("character", CHARACTER | 0o640), ("block", BLOCK | 0o400)] {
        let entry = made(&served, name, mode);
        assert_eq!((entry.attr.st_mode, entry.attr.st_rdev), (mode, u64::from(NULL)));
        served.tree.forget(&ROOT, entry.inode, 1);
        let found = served.look_up(ROOT_ID, name);
        assert_eq!((found.attr.st_mode, found.attr.st_rdev), (mode, u64::from(NULL)));
        let there = fs::metadata(served.path(name)).unwrap();
        assert!(there.is_file());
        assert_eq!((there.len(), there.mode() & 0o7777), (0, mode & 0o7777));
    }
}

#[test]
fn a_node_is_its_makers_and_keeps_its_kind_when_it_changes() {
    let served = without_the_right();
    let maker = Context { uid: 1000, gid: 1001, pid: 1 };
    fs::set_permissions(served.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .unwrap();
    let entry = served.tree.mknod(&maker, ROOT_ID, &c("node"), CHARACTER | 0o400, NULL, 0).unwrap();
    assert_eq!((entry.attr.st_uid, entry.attr.st_gid), (1000, 1001));
    let renamed = served.tree.rename(&ROOT, ROOT_ID, &c("node"), ROOT_ID, &c("other"), 0);
    renamed.unwrap();
    served.tree.link(&ROOT, entry.inode, ROOT_ID, &c("further")).unwrap();
    for name in ["other", "further"] {
        assert_eq!(served.look_up(ROOT_ID, name).attr.st_mode, CHARACTER | 0o400);
    }
}

#[test]
fn a_node_is_never_opened_or_resized_here() {
    let served = without_the_right();
    let inode = made(&served, "node", CHARACTER | 0o666).inode;
    assert_eq!(errno(served.tree.open(&ROOT, inode, RDONLY, 0)), libc::EPERM);
    let mut wanted = super::super::sys::blank_stat();
    wanted.st_size = 10;
    let resized = served.tree.setattr(
        &ROOT,
        inode,
        wanted,
        None,
        fuse_backend_rs::api::filesystem::SetattrValid::SIZE,
    );
    assert_eq!(errno(resized), libc::EPERM);
}

#[test]
fn a_guest_cannot_make_a_node_of_a_file_by_itself() {
    let served = without_the_right();
    let (file, _) = served.create("file", 0o600);
    let (name, value) = (c("user.cofferdam.device"), b"c:1:3");
    assert_eq!(errno(served.tree.setxattr(&ROOT, file, &name, value, 0)), libc::EPERM);
    let node = made(&served, "node", CHARACTER | 0o600).inode;
    assert_eq!(errno(served.tree.removexattr(&ROOT, node, &name)), libc::EPERM);
    assert_eq!(errno(served.tree.getxattr(&ROOT, node, &name, 100)), libc::ENODATA);
    let counted = served.tree.listxattr(&ROOT, node, 0).unwrap();
    let listed = served.tree.listxattr(&ROOT, node, 100).unwrap();
    assert!(matches!(counted, ListxattrReply::Count(0)));
    assert!(matches!(listed, ListxattrReply::Names(names) if names.is_empty()));
}

#[test]
fn a_name_that_is_taken_stays_as_it_is() {
    let served = without_the_right();
    fs::write(served.path("taken"), "content").unwrap();
    let again = served.tree.mknod(&ROOT, ROOT_ID, &c("taken"), CHARACTER | 0o600, NULL, 0);
    assert_eq!(errno(again), libc::EEXIST);
    assert_eq!(fs::read(served.path("taken")).unwrap(), b"content");
}

#[test]
fn with_the_right_a_node_is_one() {
    let served = Served::new();
    made(&served, "node", CHARACTER | 0o600);
    assert!(fs::metadata(served.path("node")).unwrap().file_type().is_char_device());
}
