//! Whose the files are that the guest makes, and which privileges stay on them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use fuse_backend_rs::abi::fuse_abi::{CreateIn, FOPEN_IN_KILL_SUIDGID, WRITE_KILL_PRIV};
use fuse_backend_rs::api::filesystem::{Context, FileSystem, ROOT_ID, SetattrValid};

use super::super::sys::blank_stat;
use super::fixture::{RDWR, ROOT, Served, c, errno};

const USER: Context = Context { uid: 1000, gid: 1001, pid: 1 };

#[test]
fn what_a_user_makes_is_the_users() {
    let served = Served::new();
    let wanted = CreateIn { flags: RDWR, mode: 0o644, umask: 0, fuse_flags: 0 };
    let tree = &served.tree;
    tree.create(&USER, ROOT_ID, &c("file"), wanted).unwrap();
    tree.mkdir(&USER, ROOT_ID, &c("folder"), 0o755, 0).unwrap();
    tree.symlink(&USER, &c("x"), ROOT_ID, &c("link")).unwrap();
    tree.mknod(&USER, ROOT_ID, &c("pipe"), libc::S_IFIFO | 0o600, 0, 0).unwrap();
    for name in ["file", "folder", "link", "pipe"] {
        let made = fs::symlink_metadata(served.path(name)).unwrap();
        assert_eq!((made.uid(), made.gid()), (1000, 1001), "{name}");
    }
    served.create("roots", 0o600);
    assert_eq!(fs::metadata(served.path("roots")).unwrap().uid(), 0);
}

#[test]
fn a_user_may_write_to_a_folder_by_a_group_that_the_request_does_not_name() {
    let served = Served::new();
    fs::create_dir(served.path("shared")).unwrap();
    chown(served.path("shared"), Some(0), Some(4242)).unwrap();
    fs::set_permissions(served.path("shared"), fs::Permissions::from_mode(0o2770)).unwrap();
    let shared = served.find("shared");
    let made = served.tree.mkdir(&USER, shared, &c("new"), 0o755, 0).unwrap();
    assert_eq!((made.attr.st_uid, made.attr.st_gid), (1000, 4242));
}

#[test]
fn ids_that_are_nobodys_are_refused_and_leave_the_server_itself() {
    let served = Served::new();
    let nobody = Context { uid: u32::MAX, gid: 0, pid: 1 };
    assert_eq!(errno(served.tree.mkdir(&nobody, ROOT_ID, &c("x"), 0o755, 0)), libc::EINVAL);
    assert_eq!(errno(served.tree.mkdir(&USER, 99, &c("x"), 0o755, 0)), libc::EBADF);
    served.tree.mkdir(&ROOT, ROOT_ID, &c("mine"), 0o755, 0).unwrap();
    assert_eq!(fs::metadata(served.path("mine")).unwrap().uid(), 0);
}

fn privileged(served: &Served) -> (u64, u64) {
    let (inode, handle) = served.create("program", 0o755);
    chown(served.path("program"), Some(1000), Some(1000)).unwrap();
    fs::set_permissions(served.path("program"), fs::Permissions::from_mode(0o6755)).unwrap();
    (inode, handle)
}

#[test]
fn a_write_that_asks_for_it_takes_set_id_bits_away() {
    let served = Served::new();
    let (inode, handle) = privileged(&served);
    served.write(inode, handle, b"x", 0);
    assert_eq!(served.mode(inode) & 0o7777, 0o6755);
    served.write(inode, handle, b"x", WRITE_KILL_PRIV);
    assert_eq!(served.mode(inode) & 0o7777, 0o755);
}

#[test]
fn a_truncation_that_asks_for_it_takes_set_id_bits_away() {
    let served = Served::new();
    let (inode, _) = privileged(&served);
    let set = |valid| served.tree.setattr(&ROOT, inode, blank_stat(), None, valid).unwrap().0;
    assert_eq!(set(SetattrValid::SIZE).st_mode & 0o7777, 0o6755);
    let killing = SetattrValid::SIZE | SetattrValid::KILL_SUIDGID;
    assert_eq!(set(killing).st_mode & 0o7777, 0o755);
}

#[test]
fn an_open_that_truncates_and_asks_for_it_takes_set_id_bits_away() {
    let served = Served::new();
    let (inode, handle) = privileged(&served);
    served.write(inode, handle, b"x", 0);
    let flags = RDWR | libc::O_TRUNC as u32;
    served.tree.open(&ROOT, inode, flags, FOPEN_IN_KILL_SUIDGID).unwrap();
    assert_eq!(served.mode(inode) & 0o7777, 0o755);
}

#[test]
fn a_change_of_owner_takes_set_id_bits_away() {
    let served = Served::new();
    let (inode, _) = privileged(&served);
    let mut wanted = blank_stat();
    wanted.st_uid = 7;
    let changed = served.tree.setattr(&ROOT, inode, wanted, None, SetattrValid::UID).unwrap().0;
    assert_eq!(changed.st_mode & 0o7777, 0o755);
}
