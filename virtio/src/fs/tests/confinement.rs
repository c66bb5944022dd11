//! What a guest that means no good tries against the tree.

use std::fs;
use std::os::unix::fs::symlink;

use fuse_backend_rs::abi::fuse_abi::CreateIn;
use fuse_backend_rs::api::filesystem::{FileSystem, ROOT_ID};

use super::fixture::{RDONLY, RDWR, ROOT, Served, c, errno};

#[test]
fn names_are_single_components() {
    let served = Served::new();
    let (inode, _) = served.create("file", 0o600);
    let tree = &served.tree;
    let wanted = CreateIn { flags: RDWR, mode: 0o600, umask: 0, fuse_flags: 0 };
    for bad in ["", ".", "..", "/", "/etc/passwd", "a/b", "../etc", "file/"] {
        let bad = &c(bad);
        let good = &c("file");
        let outcomes = [
            errno(tree.lookup(&ROOT, ROOT_ID, bad)),
            errno(tree.mkdir(&ROOT, ROOT_ID, bad, 0o700, 0)),
            errno(tree.mknod(&ROOT, ROOT_ID, bad, libc::S_IFREG, 0, 0)),
            errno(tree.symlink(&ROOT, good, ROOT_ID, bad)),
            errno(tree.unlink(&ROOT, ROOT_ID, bad)),
            errno(tree.rmdir(&ROOT, ROOT_ID, bad)),
            errno(tree.rename(&ROOT, ROOT_ID, bad, ROOT_ID, good, 0)),
            errno(tree.rename(&ROOT, ROOT_ID, good, ROOT_ID, bad, 0)),
            errno(tree.link(&ROOT, inode, ROOT_ID, bad)),
            errno(tree.create(&ROOT, ROOT_ID, bad, wanted)),
        ];
        assert_eq!(outcomes, [libc::EINVAL; 10], "{bad:?}");
    }
}

#[test]
fn a_symbolic_link_out_of_the_tree_is_not_followed() {
    let served = Served::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path(), served.path("folder")).unwrap();
    symlink(outside.path().join("secret"), served.path("file")).unwrap();
    let tree = &served.tree;
    let folder = served.find("folder");
    let file = served.find("file");
    assert_eq!(served.mode(folder) & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(errno(tree.lookup(&ROOT, folder, &c("secret"))), libc::ENOTDIR);
    assert_eq!(errno(tree.open(&ROOT, file, RDONLY, 0)), libc::EPERM);
    assert_eq!(errno(tree.opendir(&ROOT, folder, 0)), libc::EPERM);
    assert_eq!(errno(tree.mkdir(&ROOT, folder, &c("x"), 0o700, 0)), libc::ENOTDIR);
    let wanted = CreateIn { flags: RDWR, mode: 0o600, umask: 0, fuse_flags: 0 };
    assert_eq!(errno(tree.create(&ROOT, ROOT_ID, &c("file"), wanted)), libc::EPERM);
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
}

#[test]
fn a_folder_that_is_replaced_by_a_link_stays_the_folder() {
    let served = Served::new();
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(served.path("folder")).unwrap();
    let folder = served.find("folder");
    fs::rename(served.path("folder"), served.path("moved")).unwrap();
    symlink(outside.path(), served.path("folder")).unwrap();
    served.tree.mkdir(&ROOT, folder, &c("new"), 0o700, 0).unwrap();
    assert!(served.path("moved/new").exists());
    assert!(!outside.path().join("new").exists());
}

#[test]
fn the_tree_has_nothing_above_its_root() {
    let served = Served::new();
    assert_eq!(errno(served.tree.lookup(&ROOT, ROOT_ID, &c(".."))), libc::EINVAL);
}

#[test]
fn pipes_and_devices_are_never_opened_on_the_host() {
    let served = Served::new();
    let tree = &served.tree;
    let pipe = tree.mknod(&ROOT, ROOT_ID, &c("pipe"), libc::S_IFIFO | 0o600, 0, 0).unwrap().inode;
    let wanted = CreateIn { flags: RDWR, mode: 0o600, umask: 0, fuse_flags: 0 };
    for flags in [RDONLY, RDWR] {
        assert_eq!(errno(tree.open(&ROOT, pipe, flags, 0)), libc::EPERM);
    }
    assert_eq!(errno(tree.create(&ROOT, ROOT_ID, &c("pipe"), wanted)), libc::EPERM);
    let _socket = std::os::unix::net::UnixListener::bind(served.path("socket")).unwrap();
    let socket = served.find("socket");
    assert_eq!(errno(tree.open(&ROOT, socket, RDWR, 0)), libc::EPERM);
}

#[test]
fn flags_that_would_do_something_else_than_open_are_dropped() {
    let served = Served::new();
    let (inode, _) = served.create("file", 0o600);
    let hostile = libc::O_CREAT | libc::O_EXCL | libc::O_TMPFILE | libc::O_PATH | libc::O_NONBLOCK;
    let flags = RDWR | (hostile & !libc::O_DIRECTORY) as u32;
    let handle = served.open(inode, flags);
    served.write(inode, handle, b"x", 0);
    assert_eq!(fs::read(served.path("file")).unwrap(), b"x");
}

#[test]
fn numbers_that_stand_for_nothing_are_refused() {
    let served = Served::new();
    let tree = &served.tree;
    for number in [0, 2, 77, u64::MAX] {
        assert_eq!(errno(tree.getattr(&ROOT, number, None)), libc::EBADF);
        assert_eq!(errno(tree.lookup(&ROOT, number, &c("x"))), libc::EBADF);
        assert_eq!(errno(tree.fsync(&ROOT, ROOT_ID, false, number)), libc::EBADF);
    }
}
