//! A server in a thread of its own, over a folder of its own.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use fuse_backend_rs::abi::fuse_abi::CreateIn;
use fuse_backend_rs::api::filesystem::{Context, Entry, FileSystem, ROOT_ID};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::super::tree::Tree;
use super::super::*;

pub(super) const ROOT: Context = Context { uid: 0, gid: 0, pid: 1 };
pub(super) const RDONLY: u32 = libc::O_RDONLY as u32;
pub(super) const RDWR: u32 = libc::O_RDWR as u32;

pub(super) struct Served {
    pub(super) folder: tempfile::TempDir,
    pub(super) tree: Arc<Tree>,
}

impl Served {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let attached = attach(folder.path()).1;
        Self { folder, tree: attached.tree }
    }

    /// With room for so many files of the guest.
    pub(super) fn with_room_for(room: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let attached = attach(folder.path()).1;
        drop(attached.server);
        let mut tree = attached.tree;
        Arc::get_mut(&mut tree).unwrap().max_descriptors = room;
        Self { folder, tree }
    }

    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn look_up(&self, parent: u64, name: &str) -> Entry {
        self.tree.lookup(&ROOT, parent, &c(name)).unwrap()
    }

    /// Looks a name in the root up that must be there.
    pub(super) fn find(&self, name: &str) -> u64 {
        let entry = self.look_up(ROOT_ID, name);
        assert_ne!(entry.inode, 0, "{name} is not there");
        entry.inode
    }

    pub(super) fn create(&self, name: &str, mode: u32) -> (u64, u64) {
        let wanted = CreateIn { flags: RDWR, mode, umask: 0, fuse_flags: 0 };
        let (entry, handle, ..) = self.tree.create(&ROOT, ROOT_ID, &c(name), wanted).unwrap();
        (entry.inode, handle.unwrap())
    }

    pub(super) fn open(&self, inode: u64, flags: u32) -> u64 {
        self.tree.open(&ROOT, inode, flags, 0).unwrap().0.unwrap()
    }

    pub(super) fn read(&self, inode: u64, handle: u64) -> Vec<u8> {
        let mut target = tempfile::tempfile().unwrap();
        let tree = &self.tree;
        let count = tree.read(&ROOT, inode, handle, &mut target, 4096, 0, None, RDONLY).unwrap();
        let mut bytes = vec![0; count];
        target.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    pub(super) fn write(&self, inode: u64, handle: u64, bytes: &[u8], fuse_flags: u32) {
        let mut source = tempfile::tempfile().unwrap();
        source.write_all_at(bytes, 0).unwrap();
        let size = bytes.len() as u32;
        let tree = &self.tree;
        let count = tree
            .write(&ROOT, inode, handle, &mut source, size, 0, None, false, RDWR, fuse_flags)
            .unwrap();
        assert_eq!(count, bytes.len());
    }

    pub(super) fn mode(&self, inode: u64) -> u32 {
        self.tree.getattr(&ROOT, inode, None).unwrap().0.st_mode
    }
}

/// A device and its server over a folder, in the calling thread.
pub(super) fn attach(folder: &Path) -> (FsDevice, AttachedFs) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    serving(folder).unwrap()
}

pub(super) fn c(name: &str) -> CString {
    CString::new(name).unwrap()
}

pub(super) fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}
