//! Files: made, opened, read, written, linked, gone.

use std::fs;
use std::os::unix::fs::MetadataExt;

use fuse_backend_rs::api::filesystem::{
    FileSystem, GetxattrReply, ListxattrReply, OpenOptions, ROOT_ID, SetattrValid,
};

use super::super::sys::blank_stat;
use super::fixture::{RDONLY, RDWR, ROOT, Served, c, errno};

#[test]
fn what_the_guest_writes_is_in_the_hosts_file() {
    let served = Served::new();
    let (inode, handle) = served.create("file", 0o640);
    served.write(inode, handle, b"content", 0);
    assert_eq!(fs::read(served.path("file")).unwrap(), b"content");
    assert_eq!(fs::metadata(served.path("file")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(served.read(inode, handle), b"content");
}

#[test]
fn an_open_file_outlives_its_name() {
    let served = Served::new();
    let (inode, handle) = served.create("file", 0o600);
    served.write(inode, handle, b"still here", 0);
    served.tree.unlink(&ROOT, ROOT_ID, &c("file")).unwrap();
    assert_eq!(served.read(inode, handle), b"still here");
    assert_eq!(served.tree.getattr(&ROOT, inode, None).unwrap().0.st_nlink, 0);
    let again = served.open(inode, RDONLY);
    assert_eq!(served.read(inode, again), b"still here");
    assert_eq!(served.look_up(ROOT_ID, "file").inode, 0);
}

#[test]
fn the_inode_of_a_file_that_is_gone_is_not_the_new_ones() {
    let served = Served::new();
    let (old, handle) = served.create("file", 0o600);
    served.write(old, handle, b"old", 0);
    served.tree.unlink(&ROOT, ROOT_ID, &c("file")).unwrap();
    let (new, _) = served.create("file", 0o600);
    assert_ne!(old, new);
    assert_eq!(served.read(old, handle), b"old");
}

#[test]
fn a_number_that_comes_again_is_another_generation() {
    let served = Served::new();
    fs::write(served.path("a"), "a").unwrap();
    fs::write(served.path("b"), "b").unwrap();
    let first = served.look_up(ROOT_ID, "a");
    served.tree.forget(&ROOT, first.inode, 1);
    assert_eq!(errno(served.tree.getattr(&ROOT, first.inode, None)), libc::EBADF);
    let second = served.look_up(ROOT_ID, "b");
    assert_eq!(second.inode, first.inode);
    assert_ne!(second.generation, first.generation);
}

#[test]
fn a_file_is_forgotten_when_every_look_up_is() {
    let served = Served::new();
    fs::write(served.path("a"), "a").unwrap();
    let inode = served.find("a");
    assert_eq!(served.find("a"), inode);
    served.tree.forget(&ROOT, inode, 1);
    assert!(served.tree.getattr(&ROOT, inode, None).is_ok());
    served.tree.batch_forget(&ROOT, vec![(inode, u64::MAX), (ROOT_ID, u64::MAX), (99, 1)]);
    assert_eq!(errno(served.tree.getattr(&ROOT, inode, None)), libc::EBADF);
    assert!(served.tree.getattr(&ROOT, ROOT_ID, None).is_ok());
}

#[test]
fn hard_links_are_one_file() {
    let served = Served::new();
    let (inode, _) = served.create("file", 0o600);
    let entry = served.tree.link(&ROOT, inode, ROOT_ID, &c("link")).unwrap();
    assert_eq!(entry.inode, inode);
    assert_eq!(entry.attr.st_nlink, 2);
    assert_eq!(served.find("link"), inode);
    served.tree.unlink(&ROOT, ROOT_ID, &c("file")).unwrap();
    assert_eq!(served.find("link"), inode);
}

#[test]
fn a_symbolic_link_can_be_hard_linked_itself() {
    let served = Served::new();
    let link = served.tree.symlink(&ROOT, &c("nowhere"), ROOT_ID, &c("link")).unwrap().inode;
    let second = served.tree.link(&ROOT, link, ROOT_ID, &c("second")).unwrap();
    assert_eq!(second.inode, link);
    assert_eq!(fs::read_link(served.path("second")).unwrap().to_str(), Some("nowhere"));
}

#[test]
fn a_name_that_is_not_there_may_be_remembered_as_such() {
    let served = Served::new();
    let entry = served.look_up(ROOT_ID, "nothing");
    assert_eq!(entry.inode, 0);
    assert!(!entry.entry_timeout.is_zero());
}

#[test]
fn what_the_guest_has_cached_holds_until_the_file_changes() {
    let served = Served::new();
    fs::write(served.path("file"), "one").unwrap();
    let inode = served.find("file");
    let options = || served.tree.open(&ROOT, inode, RDONLY, 0).unwrap().1;
    assert_eq!(options(), OpenOptions::empty());
    assert_eq!(options(), OpenOptions::KEEP_CACHE);
    fs::write(served.path("file"), "three").unwrap();
    assert_eq!(options(), OpenOptions::empty());
    assert_eq!(options(), OpenOptions::KEEP_CACHE);
}

#[test]
fn appending_is_switched_while_the_file_is_open() {
    let served = Served::new();
    let (inode, handle) = served.create("file", 0o600);
    served.write(inode, handle, b"abc", 0);
    let mut source = fs::File::open(served.path("file")).unwrap();
    let append = RDWR | libc::O_APPEND as u32;
    let tree = &served.tree;
    tree.write(&ROOT, inode, handle, &mut source, 3, 0, None, false, append, 0).unwrap();
    served.write(inode, handle, b"X", 0);
    assert_eq!(fs::read(served.path("file")).unwrap(), b"Xbcabc");
}

#[test]
fn attributes_change_one_by_one() {
    let served = Served::new();
    let (inode, handle) = served.create("file", 0o600);
    let mut wanted = blank_stat();
    (wanted.st_mode, wanted.st_uid, wanted.st_gid) = (0o4711, 5, 6);
    (wanted.st_size, wanted.st_atime, wanted.st_mtime) = (3, 7, 8);
    let set = |valid, handle| served.tree.setattr(&ROOT, inode, wanted, handle, valid).unwrap().0;
    assert_eq!(set(SetattrValid::UID, None).st_uid, 5);
    let changed = set(SetattrValid::GID | SetattrValid::SIZE, None);
    assert_eq!((changed.st_uid, changed.st_gid, changed.st_size), (5, 6, 3));
    assert_eq!(set(SetattrValid::MODE, Some(handle)).st_mode & 0o7777, 0o4711);
    assert_eq!(set(SetattrValid::MTIME, Some(handle)).st_mtime, 8);
    let changed = set(SetattrValid::ATIME | SetattrValid::MTIME | SetattrValid::MTIME_NOW, None);
    assert_eq!(changed.st_atime, 7);
    assert!(changed.st_mtime > 1_000_000);
}

#[test]
fn sizes_and_ids_that_cannot_be_are_refused() {
    let served = Served::new();
    let (inode, _) = served.create("file", 0o600);
    let mut wanted = blank_stat();
    (wanted.st_size, wanted.st_uid) = (-1, u32::MAX);
    for valid in [SetattrValid::SIZE, SetattrValid::UID] {
        let result = served.tree.setattr(&ROOT, inode, wanted, None, valid);
        assert_eq!(errno(result), libc::EINVAL);
    }
}

#[test]
fn times_of_a_symbolic_link_are_its_own() {
    let served = Served::new();
    let (file, _) = served.create("file", 0o600);
    let link = served.tree.symlink(&ROOT, &c("file"), ROOT_ID, &c("link")).unwrap().inode;
    let mut wanted = blank_stat();
    wanted.st_mtime = 9;
    let changed = served.tree.setattr(&ROOT, link, wanted, None, SetattrValid::MTIME).unwrap();
    assert_eq!(changed.0.st_mtime, 9);
    assert_ne!(served.tree.getattr(&ROOT, file, None).unwrap().0.st_mtime, 9);
}

#[test]
fn extended_attributes_come_and_go() {
    let served = Served::new();
    let (inode, _) = served.create("file", 0o600);
    let tree = &served.tree;
    tree.setxattr(&ROOT, inode, &c("user.a"), b"value", 0).unwrap();
    let value = |size| tree.getxattr(&ROOT, inode, &c("user.a"), size);
    assert!(matches!(value(0).unwrap(), GetxattrReply::Count(5)));
    assert!(matches!(value(64).unwrap(), GetxattrReply::Value(value) if value == b"value"));
    assert!(matches!(value(u32::MAX).unwrap(), GetxattrReply::Value(_)));
    assert_eq!(errno(value(2)), libc::ERANGE);
    let names = tree.listxattr(&ROOT, inode, 4096).unwrap();
    assert!(
        matches!(names, ListxattrReply::Names(names) if names.windows(7).any(|w| w == b"user.a\0"))
    );
    tree.removexattr(&ROOT, inode, &c("user.a")).unwrap();
    assert_eq!(errno(value(64)), libc::ENODATA);
}

#[test]
fn holes_are_found() {
    let served = Served::new();
    let (inode, handle) = served.create("file", 0o600);
    served.write(inode, handle, &[1; 4096], 0);
    served.tree.fallocate(&ROOT, inode, handle, 0, 0, 1 << 20).unwrap();
    let hole = served.tree.lseek(&ROOT, inode, handle, 0, libc::SEEK_HOLE as u32).unwrap();
    assert_eq!((hole, fs::metadata(served.path("file")).unwrap().len()), (4096, 1 << 20));
    let wrong = served.tree.lseek(&ROOT, inode, handle, 0, libc::SEEK_SET as u32);
    assert_eq!(errno(wrong), libc::EINVAL);
}

#[test]
fn renaming_can_exchange_and_can_refuse_to_replace() {
    let served = Served::new();
    fs::write(served.path("a"), "a").unwrap();
    fs::write(served.path("b"), "b").unwrap();
    let rename = |flags| served.tree.rename(&ROOT, ROOT_ID, &c("a"), ROOT_ID, &c("b"), flags);
    assert_eq!(errno(rename(libc::RENAME_NOREPLACE)), libc::EEXIST);
    rename(libc::RENAME_EXCHANGE).unwrap();
    assert_eq!(fs::read(served.path("a")).unwrap(), b"b");
    rename(0).unwrap();
    assert!(!served.path("a").exists());
}

#[test]
fn a_handle_belongs_to_its_inode() {
    let served = Served::new();
    let (first, handle) = served.create("a", 0o600);
    let (second, _) = served.create("b", 0o600);
    assert_eq!(errno(served.tree.getattr(&ROOT, second, Some(handle))), libc::EBADF);
    assert_eq!(errno(served.tree.releasedir(&ROOT, second, 0, handle)), libc::EBADF);
    served.tree.release(&ROOT, first, 0, handle, false, false, None).unwrap();
    assert_eq!(errno(served.tree.fsync(&ROOT, first, false, handle)), libc::EBADF);
}
