//! Reading folders, whole and in pieces.

use std::collections::BTreeSet;
use std::fs;

use fuse_backend_rs::api::filesystem::{FileSystem, ROOT_ID};

use super::fixture::{ROOT, Served, errno};

fn names(served: &Served, fits: usize) -> BTreeSet<String> {
    let handle = served.tree.opendir(&ROOT, ROOT_ID, 0).unwrap().0.unwrap();
    let mut names = BTreeSet::new();
    let mut offset = 0;
    loop {
        let mut given = 0;
        let from = offset;
        served
            .tree
            .readdir(&ROOT, ROOT_ID, handle, 4096, from, &mut |entry| {
                if given == fits {
                    return Ok(0);
                }
                given += 1;
                offset = entry.offset;
                assert!(names.insert(String::from_utf8(entry.name.to_vec()).unwrap()));
                Ok(1)
            })
            .unwrap();
        if given == 0 {
            return names;
        }
    }
}

#[test]
fn every_name_is_given_once_however_few_fit_into_an_answer() {
    let served = Served::new();
    for number in 0..300 {
        fs::write(served.path(&format!("file-{number}")), "").unwrap();
    }
    assert_eq!(names(&served, 1000).len(), 302);
    assert_eq!(names(&served, 7), names(&served, 1000));
}

#[test]
fn inode_numbers_are_those_of_the_files() {
    let served = Served::new();
    let (inode, _) = served.create("file", 0o600);
    let number = served.tree.getattr(&ROOT, inode, None).unwrap().0.st_ino;
    let handle = served.tree.opendir(&ROOT, ROOT_ID, 0).unwrap().0.unwrap();
    let mut seen = 0;
    let mut add = |entry: fuse_backend_rs::api::filesystem::DirEntry<'_>| {
        seen = if entry.name == b"file" { entry.ino } else { seen };
        Ok(1)
    };
    served.tree.readdir(&ROOT, ROOT_ID, handle, 4096, 0, &mut add).unwrap();
    assert_eq!(seen, number);
}

#[test]
fn an_entry_with_attributes_is_a_look_up() {
    let served = Served::new();
    fs::write(served.path("file"), "12345").unwrap();
    let handle = served.tree.opendir(&ROOT, ROOT_ID, 0).unwrap().0.unwrap();
    let mut found = Vec::new();
    served
        .tree
        .readdirplus(&ROOT, ROOT_ID, handle, 4096, 0, &mut |entry, attributes| {
            found.push((entry.name.to_vec(), attributes.inode, attributes.attr.st_size));
            Ok(1)
        })
        .unwrap();
    let (_, inode, size) = found.iter().find(|entry| entry.0 == b"file").unwrap();
    assert_eq!(*size, 5);
    assert!(found.iter().filter(|entry| entry.0.starts_with(b".")).all(|entry| entry.1 == 0));
    served.tree.forget(&ROOT, *inode, 1);
    assert_eq!(errno(served.tree.getattr(&ROOT, *inode, None)), libc::EBADF);
}

#[test]
fn a_look_up_whose_entry_did_not_fit_is_taken_back() {
    let served = Served::new();
    for number in 0..10 {
        fs::write(served.path(&format!("file-{number}")), "").unwrap();
    }
    let handle = served.tree.opendir(&ROOT, ROOT_ID, 0).unwrap().0.unwrap();
    let before = served.tree.state().inodes.len();
    let mut add = |_: fuse_backend_rs::api::filesystem::DirEntry<'_>, _| Ok(0);
    served.tree.readdirplus(&ROOT, ROOT_ID, handle, 4096, 0, &mut add).unwrap();
    assert_eq!(served.tree.state().inodes.len(), before);
}

#[test]
fn a_file_is_no_folder() {
    let served = Served::new();
    let (inode, handle) = served.create("file", 0o600);
    assert_eq!(errno(served.tree.opendir(&ROOT, inode, 0)), libc::ENOTDIR);
    let mut add = |_: fuse_backend_rs::api::filesystem::DirEntry<'_>| Ok(1);
    let result = served.tree.readdir(&ROOT, inode, handle, 4096, 0, &mut add);
    assert_eq!(errno(result), libc::ENOTDIR);
}
