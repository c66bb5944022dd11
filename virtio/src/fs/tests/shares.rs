//! Several file systems of the host in one tree.

use std::fs;
use std::path::Path;

use fuse_backend_rs::api::filesystem::{FileSystem, ROOT_ID};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount,
};

use super::fixture::{RDONLY, RDWR, ROOT, Served, c, errno};

const SUBMOUNT: u32 = 1;

/// A tree in a mount namespace of the thread's own.
fn namespaced() -> Served {
    super::super::sys::own_mount_namespace().unwrap();
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags).unwrap();
    Served::new()
}

fn tmpfs(at: &Path) {
    fs::create_dir(at).unwrap();
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), None).unwrap();
}

#[test]
fn equal_inode_numbers_of_two_devices_are_two_files() {
    let served = namespaced();
    for (share, content) in [("0", "zero"), ("1", "one")] {
        tmpfs(&served.path(share));
        fs::write(served.path(share).join("file"), content).unwrap();
    }
    let folders = ["0", "1"].map(|share| served.look_up(ROOT_ID, share));
    let files = folders.map(|folder| served.look_up(folder.inode, "file"));
    assert_eq!(files[0].attr.st_ino, files[1].attr.st_ino, "the premise of this test");
    assert_ne!(files[0].inode, files[1].inode);
    let contents = files.map(|file| served.read(file.inode, served.open(file.inode, RDONLY)));
    assert_eq!(contents, [b"zero".to_vec(), b"one".to_vec()]);
    assert!(folders.iter().all(|folder| folder.attr_flags & SUBMOUNT != 0));
    assert!(files.iter().all(|file| file.attr_flags & SUBMOUNT == 0));
}

#[test]
fn one_file_in_a_read_only_and_a_writable_share_is_each_what_its_share_is() {
    let served = namespaced();
    tmpfs(&served.path("0"));
    fs::write(served.path("0/file"), "content").unwrap();
    fs::create_dir(served.path("1")).unwrap();
    mount_bind(served.path("0"), served.path("1")).unwrap();
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    mount_remount(served.path("1"), flags, "").unwrap();
    for order in [["0", "1"], ["1", "0"]] {
        let files = order.map(|share| served.look_up(served.find(share), "file").inode);
        let results = files.map(|file| errno(served.tree.open(&ROOT, file, RDWR, 0)));
        let expected = order.map(|share| if share == "1" { libc::EROFS } else { 0 });
        assert_eq!(results, expected);
    }
}

#[test]
fn a_share_that_is_a_file_is_served() {
    let served = namespaced();
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), "resolv").unwrap();
    fs::write(served.path("3"), "").unwrap();
    mount_bind(outside.path(), served.path("3")).unwrap();
    let entry = served.look_up(ROOT_ID, "3");
    assert_eq!(entry.attr_flags, 0);
    assert_eq!(served.read(entry.inode, served.open(entry.inode, RDONLY)), b"resolv");
}

#[test]
fn links_and_renames_do_not_cross_shares() {
    let served = namespaced();
    tmpfs(&served.path("0"));
    tmpfs(&served.path("1"));
    fs::write(served.path("0/file"), "").unwrap();
    let (zero, one) = (served.find("0"), served.find("1"));
    let file = served.look_up(zero, "file").inode;
    assert_eq!(errno(served.tree.link(&ROOT, file, one, &c("file"))), libc::EXDEV);
    let renamed = served.tree.rename(&ROOT, zero, &c("file"), one, &c("file"), 0);
    assert_eq!(errno(renamed), libc::EXDEV);
}
