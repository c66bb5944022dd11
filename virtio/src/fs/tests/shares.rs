//! Several file systems of the host in one tree.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use fuse_backend_rs::abi::fuse_abi::CreateIn;
use fuse_backend_rs::api::filesystem::{FileSystem, ROOT_ID, SetattrValid};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount,
};

use super::super::sys::blank_stat;
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

/// Whatever a guest's kernel sends: what it is allowed to send is not asked of it.
#[test]
fn a_read_only_share_is_changed_by_no_request() {
    let served = namespaced();
    tmpfs(&served.path("1"));
    fs::write(served.path("1/file"), "content").unwrap();
    fs::create_dir(served.path("1/folder")).unwrap();
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    mount_remount(served.path("1"), flags, "").unwrap();
    let tree = &served.tree;
    let share = served.find("1");
    let file = served.look_up(share, "file").inode;
    let handle = served.open(file, RDONLY);
    let wanted = CreateIn { flags: RDWR, mode: 0o600, umask: 0, fuse_flags: 0 };
    let change = |valid| errno(tree.setattr(&ROOT, file, blank_stat(), None, valid));
    let outcomes = [
        errno(tree.create(&ROOT, share, &c("new"), wanted)),
        errno(tree.mkdir(&ROOT, share, &c("new"), 0o700, 0)),
        errno(tree.mknod(&ROOT, share, &c("new"), libc::S_IFIFO, 0, 0)),
        errno(tree.symlink(&ROOT, &c("file"), share, &c("new"))),
        errno(tree.link(&ROOT, file, share, &c("new"))),
        errno(tree.unlink(&ROOT, share, &c("file"))),
        errno(tree.rmdir(&ROOT, share, &c("folder"))),
        errno(tree.rename(&ROOT, share, &c("file"), share, &c("new"), 0)),
        errno(tree.setxattr(&ROOT, file, &c("trusted.x"), b"x", 0)),
        errno(tree.removexattr(&ROOT, file, &c("trusted.x"))),
        errno(tree.open(&ROOT, file, RDONLY | libc::O_TRUNC as u32, 0)),
        errno(super::super::unnamed::make(tree, &ROOT, share, wanted)),
        change(SetattrValid::MODE),
        change(SetattrValid::UID | SetattrValid::GID),
        change(SetattrValid::MTIME),
        change(SetattrValid::SIZE),
    ];
    assert_eq!(outcomes, [libc::EROFS; 16]);
    // A handle that was opened for reading stays one, whatever is asked of it.
    assert_eq!(errno(tree.fallocate(&ROOT, file, handle, 0, 0, 100)), libc::EBADF);
    let mut source = tempfile::tempfile().unwrap();
    source.write_all_at(b"x", 0).unwrap();
    let written = tree.write(&ROOT, file, handle, &mut source, 1, 0, None, false, RDWR, 0);
    assert_eq!(errno(written), libc::EBADF);
    assert_eq!(fs::read(served.path("1/file")).unwrap(), b"content");
}
