//! Files without a name, as a driver asks for them.

use std::os::unix::fs::MetadataExt;

use fuse_backend_rs::abi::fuse_abi::CreateIn;
use fuse_backend_rs::api::filesystem::{Context, FileSystem, ROOT_ID};

use super::super::unnamed::make;
use super::fixture::{RDWR, ROOT, Served, c, errno};

const EXCLUSIVE: u32 = libc::O_EXCL as u32;

fn wanted(flags: u32) -> CreateIn {
    CreateIn { flags: RDWR | flags, mode: 0o640, umask: 0, fuse_flags: 0 }
}

#[test]
fn a_file_without_a_name_gets_one_by_a_link() {
    let served = Served::new();
    let caller = Context { uid: 1000, gid: 1001, pid: 7 };
    let (entry, handle) = make(&served.tree, &caller, ROOT_ID, wanted(0)).unwrap();
    served.write(entry.inode, handle, b"content", 0);
    assert_eq!(entry.attr.st_nlink, 0);
    assert_eq!(std::fs::read_dir(served.folder.path()).unwrap().count(), 0);
    served.tree.link(&ROOT, entry.inode, ROOT_ID, &c("name")).unwrap();
    let seen = std::fs::metadata(served.path("name")).unwrap();
    assert_eq!((seen.uid(), seen.gid(), seen.mode() & 0o7777), (1000, 1001, 0o640));
    assert_eq!(std::fs::read(served.path("name")).unwrap(), b"content");
    assert_eq!(served.find("name"), entry.inode);
}

#[test]
fn an_exclusive_one_never_gets_a_name() {
    let served = Served::new();
    let (entry, _) = make(&served.tree, &ROOT, ROOT_ID, wanted(EXCLUSIVE)).unwrap();
    let linked = served.tree.link(&ROOT, entry.inode, ROOT_ID, &c("name"));
    assert_eq!(errno(linked), libc::ENOENT);
}

#[test]
fn only_a_folder_can_hold_it() {
    let served = Served::new();
    let (file, _) = served.create("file", 0o600);
    assert_eq!(errno(make(&served.tree, &ROOT, file, wanted(0))), libc::ENOTDIR);
    assert_eq!(errno(make(&served.tree, &ROOT, 99, wanted(0))), libc::EBADF);
}
