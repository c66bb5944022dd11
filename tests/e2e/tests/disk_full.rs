//! A disk that is full: the one with the runtime's own state, and one that a container writes to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use cofferdam_e2e::{Bundle, Leftovers, Mode, Runtime};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;
use tempfile::TempDir;

const PAGE: usize = 4096;

/// A disk of a quarter of a MiB at a folder, until this is dropped.
struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    fn at(folder: &Path) -> Self {
        let none: Option<&str> = None;
        mount(none, folder, Some("tmpfs"), MsFlags::empty(), Some("size=256k,mode=711")).unwrap();
        Self { folder: folder.to_owned() }
    }

    fn filler(&self) -> PathBuf {
        self.folder.join(".filler")
    }

    /// Leaves so many pages free.
    fn fill_but(&self, pages: usize) {
        let mut filler = File::create(self.filler()).unwrap();
        let full = |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::StorageFull);
        while let Ok(()) = filler.write_all(&[1; PAGE]).map_err(full) {}
        let length = filler.metadata().unwrap().len() as usize / PAGE * PAGE;
        filler.set_len((length - pages * PAGE) as u64).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.folder, MntFlags::MNT_DETACH);
    }
}

/// How much room is left when it is made: from none to more than enough, each page of the state met.
fn rooms() -> Vec<usize> {
    match Mode::current() {
        Mode::Namespace => (0..16).collect(),
        Mode::MicroVm => vec![0, 1, 2, 3, 4, 6, 16],
    }
}

#[test]
fn a_container_is_made_or_the_full_disk_is_named_and_nothing_is_left() {
    let runtime = Runtime::cofferdam();
    let disk = SmallDisk::at(runtime.root());
    let bundle = Bundle::busybox(&["true"]);
    let before = Leftovers::before(&runtime);
    let mut made = 0;
    for pages in rooms() {
        disk.fill_but(pages);
        let outcome = runtime.run(&bundle);
        if outcome.code == 0 {
            made += 1;
        } else {
            outcome.exits(1).complains(&["No space left on device"]);
        }
        disk.free();
        before.none_since(&runtime);
    }
    assert!(made > 0 && made < rooms().len(), "{made}");
    runtime.run(&bundle).exits(0);
}

#[test]
fn on_a_disk_that_filled_up_a_container_is_stopped_and_deleted_like_any_other() {
    let runtime = Runtime::cofferdam();
    let disk = SmallDisk::at(runtime.root());
    let before = Leftovers::before(&runtime);
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
    disk.fill_but(0);
    container.exec(&["echo", "here"]).exits(0).prints("here\n");
    assert_eq!(container.status(), "running");
    runtime.verb(&["kill", &container.id, "KILL"]).exits(0);
    container.becomes("stopped");
    runtime.verb(&["delete", &container.id]).exits(0);
    disk.free();
    before.none_since(&runtime);
}

#[test]
fn a_program_that_fills_a_volume_is_told_so_and_what_it_wrote_is_there() {
    let runtime = Runtime::cofferdam();
    let folder = TempDir::with_prefix("cofferdam-volume-").unwrap();
    let _disk = SmallDisk::at(folder.path());
    let volume = json!({
        "destination": "/data", "type": "bind", "source": folder.path(), "options": ["bind", "rw"]
    });
    let script = "echo kept > /data/first; dd if=/dev/zero of=/data/big bs=4k count=1000; \
                  code=$?; rm /data/big; echo again > /data/second && exit $code";
    let outcome = runtime.run(&Bundle::script(script).mount(volume));
    outcome.exits(1).complains(&["No space left on device"]);
    let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!((read("first").as_str(), read("second").as_str()), ("kept\n", "again\n"));
}
