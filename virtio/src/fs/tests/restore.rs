//! What the guest knows, written down and found again.

use super::fixture::*;
use crate::fs::{FsRestoreError, FsSaveError};
use crate::saved::FsState;

use fuse_backend_rs::api::filesystem::{FileSystem, ROOT_ID};

/// A server over the same folder, with what another one knew.
fn restored(served: Served) -> Result<Served, FsRestoreError> {
    let state = served.tree.save().unwrap();
    // As it comes out of a file.
    let text = serde_json::to_string(&state).unwrap();
    restored_with(served, &serde_json::from_str(&text).unwrap())
}

fn restored_with(served: Served, state: &FsState) -> Result<Served, FsRestoreError> {
    let Served { folder, tree: _ } = served;
    let tree = attach(folder.path()).1.tree;
    tree.restore(state)?;
    Ok(Served { folder, tree })
}

#[test]
fn numbers_of_files_and_open_files_mean_what_they_meant() {
    let served = Served::new();
    std::fs::create_dir(served.path("folder")).unwrap();
    std::fs::write(served.path("folder/read"), "content").unwrap();
    let folder = served.find("folder");
    let read = served.look_up(folder, "read").inode;
    let handle = served.open(read, RDONLY);
    let (made, written) = served.create("made", 0o600);
    std::fs::remove_file(served.path("made")).unwrap();
    served.tree.release(&ROOT, made, 0, written, false, false, None).unwrap();
    let restored = restored(served).unwrap();
    assert_eq!(restored.read(read, handle), b"content");
    assert_eq!(restored.look_up(folder, "read").inode, read);
    // The guest has a number for a file that is gone.
    let gone = restored.tree.getattr(&ROOT, made, None).unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(libc::ESTALE));
    restored.tree.forget(&ROOT, made, 1);
}

#[test]
fn a_name_that_moved_is_written_down_where_it_is() {
    let served = Served::new();
    std::fs::write(served.path("before"), "content").unwrap();
    let file = served.find("before");
    let handle = served.open(file, RDONLY);
    std::fs::rename(served.path("before"), served.path("after")).unwrap();
    assert_eq!(restored(served).unwrap().read(file, handle), b"content");
}

#[test]
fn an_open_file_without_a_name_is_refused_by_the_name_it_had() {
    let served = Served::new();
    let (_, _handle) = served.create("temporary", 0o600);
    std::fs::remove_file(served.path("temporary")).unwrap();
    let error = served.tree.save().unwrap_err();
    let FsSaveError::Unlinked { path } = &error else { panic!("{error}") };
    assert!(path.contains("temporary"), "{path}");
}

#[test]
fn an_open_file_that_is_gone_or_changed_is_refused_by_name() {
    for (change, expected) in [
        ((|path| std::fs::remove_file(path).unwrap()) as fn(&std::path::Path), "cannot be opened"),
        (|path| std::fs::write(path, "longer than before").unwrap(), "with 7 bytes, has 18"),
    ] {
        let served = Served::new();
        std::fs::write(served.path("file"), "content").unwrap();
        served.open(served.find("file"), RDONLY);
        let state = served.tree.save().unwrap();
        change(&served.path("file"));
        let error = restored_with(served, &state).err().unwrap().to_string();
        assert!(error.contains("file, which is open in the snapshot"), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_snapshot_reaches_nothing_outside_of_the_shares() {
    for path in ["../etc/passwd", "a/../../etc", "/etc/passwd", "", "link/passwd"] {
        let served = Served::new();
        std::os::unix::fs::symlink("/etc", served.path("link")).unwrap();
        std::fs::write(served.path("file"), "content").unwrap();
        let file = served.find("file");
        let mut state = served.tree.save().unwrap();
        state.inodes[0].path = Some(path.to_owned().into_bytes().into());
        let restored = restored_with(served, &state).unwrap();
        assert!(restored.tree.open(&ROOT, file, RDONLY, 0).is_err(), "{path}");
    }
}

#[test]
fn a_damaged_table_is_refused() {
    let damage: [fn(&mut FsState); 4] = [
        |state| state.inodes[0].number = u64::MAX,
        |state| state.inodes[0].number = 0,
        |state| state.inodes[0].number = ROOT_ID,
        |state| state.handles[0].inode = 77,
    ];
    for damage in damage {
        let served = Served::new();
        std::fs::write(served.path("file"), "content").unwrap();
        served.open(served.find("file"), RDONLY);
        let mut state = served.tree.save().unwrap();
        damage(&mut state);
        assert!(restored_with(served, &state).is_err());
    }
}
