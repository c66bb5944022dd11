//! What the host changes reaches the agent, which repeats it without effect.

use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;

use cofferdam_protocol::bounds::MAX_CHANGE_BYTES;
use cofferdam_protocol::change::{Change, ChangeEvent};
use cofferdam_protocol::frame;
use fuse_backend_rs::api::filesystem::{Context, FileSystem, ROOT_ID, SetattrValid};
use rustix::fs::{Mode, OFlags, open};

use super::super::sys::blank_stat;
use super::super::tree::Tree;
use super::super::*;
use super::fixture::{RDONLY, RDWR, ROOT, c, errno};

const AGENT_THREAD: u32 = 77;
const AGENT: Context = Context { uid: 0, gid: 0, pid: AGENT_THREAD as i32 };

/// A share in a folder, and an agent.
struct Host {
    folder: tempfile::TempDir,
    server: AttachedFs,
    tree: Arc<Tree>,
    agent: UnixStream,
    share: u64,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("1")).unwrap();
        fs::write(folder.path().join("2"), "a file that is a mount").unwrap();
        let (ours, mut agent) = UnixStream::pair().unwrap();
        agent.set_nonblocking(true).unwrap();
        agent.write_all(&AGENT_THREAD.to_le_bytes()).unwrap();
        let (_, mut server) = super::super::open("tag", FsConfig::default()).unwrap();
        let watcher = server.follow_host(ours.into()).unwrap();
        std::thread::spawn(move || {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            watcher.prepare(open("/proc/self/fd", flags, Mode::empty()).unwrap()).unwrap();
            watcher.run()
        });
        let root = open(folder.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let server = server.prepare().unwrap().attach_at(root).unwrap();
        let tree = Arc::clone(&server.tree);
        let share = tree.lookup(&ROOT, ROOT_ID, &c("1")).unwrap().inode;
        tree.lookup(&ROOT, ROOT_ID, &c("2")).unwrap();
        tree.listen();
        Self { folder, server, tree, agent, share }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("1").join(name)
    }

    /// The change that the agent is to repeat, if there is one.
    fn told(&mut self) -> Option<Change> {
        self.tree.tell();
        frame::read_frame(&mut self.agent, MAX_CHANGE_BYTES).ok()
    }

    fn event(&mut self) -> Option<ChangeEvent> {
        self.told().map(|change| change.event)
    }

    fn repeated(&mut self) {
        self.agent.write_all(&[1]).unwrap();
        self.tree.listen();
    }

    /// Has everything repeated that there is, without a look.
    fn settle(&mut self) {
        while self.event().is_some() {
            self.agent.write_all(&[1]).unwrap();
            let changes = &self.tree;
            changes.state().changes.as_mut().unwrap().listen();
        }
    }

    fn look_up(&self, caller: &Context, name: &str) -> u64 {
        self.tree.lookup(caller, self.share, &CString::new(name).unwrap()).unwrap().inode
    }
}

fn name(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

#[test]
fn a_file_that_appears_is_made_again_without_effect() {
    let mut host = Host::new();
    fs::write(host.path("new"), "content").unwrap();
    let change = host.told().unwrap();
    assert_eq!(change.folder.path, name("1"));
    assert_eq!(change.event, ChangeEvent::Appeared { name: name("new"), mode: libc::S_IFREG });
    assert_eq!(host.look_up(&AGENT, "new"), 0, "the agent makes it");
    assert_ne!(host.look_up(&ROOT, "new"), 0, "everyone else sees it");
    let tree = &host.tree;
    let made = tree.mknod(&AGENT, host.share, &c("new"), libc::S_IFREG | 0o777, 0, 0).unwrap();
    assert_eq!(made.inode, host.look_up(&ROOT, "new"));
    assert_eq!(fs::read(host.path("new")).unwrap(), b"content");
    host.repeated();
    assert_ne!(host.look_up(&AGENT, "new"), 0);
}

#[test]
fn a_link_that_is_swapped_by_a_rename_is_renamed_again() {
    let mut host = Host::new();
    symlink("old", host.path("..data")).unwrap();
    host.settle();
    let old = host.look_up(&ROOT, "..data");
    symlink("new", host.path("..data_tmp")).unwrap();
    fs::rename(host.path("..data_tmp"), host.path("..data")).unwrap();
    let appeared = ChangeEvent::Appeared { name: name("..data_tmp"), mode: libc::S_IFREG };
    assert_eq!(host.event().unwrap(), appeared, "it is gone again: of what kind is not known");
    let phantom = host.tree.mknod(&AGENT, host.share, &c("..data_tmp"), libc::S_IFREG, 0, 0);
    let phantom = phantom.unwrap().inode;
    assert_eq!(errno(host.tree.getattr(&ROOT, phantom, None)), libc::EBADF);
    host.repeated();
    let Some(ChangeEvent::Moved { from, to, .. }) = read(&mut host) else { panic!("no move") };
    assert_eq!((from, to), (name("..data_tmp"), name("..data")));
    let moving = host.look_up(&AGENT, "..data_tmp");
    assert_eq!(host.tree.readlink(&ROOT, moving).unwrap(), b"new");
    assert_eq!(host.look_up(&AGENT, "..data"), old, "what it covers");
    let renamed =
        host.tree.rename(&AGENT, host.share, &c("..data_tmp"), host.share, &c("..data"), 0);
    renamed.unwrap();
    assert_eq!(fs::read_link(host.path("..data")).unwrap().to_str(), Some("new"));
}

#[test]
fn a_name_that_the_guest_has_looked_up_again_is_covered_by_nothing() {
    let mut host = Host::new();
    fs::write(host.path("old"), "").unwrap();
    fs::write(host.path("new"), "").unwrap();
    host.settle();
    host.look_up(&ROOT, "old");
    fs::rename(host.path("new"), host.path("old")).unwrap();
    assert_ne!(host.look_up(&ROOT, "old"), 0, "looked up before it is told");
    assert!(matches!(host.event(), Some(ChangeEvent::Moved { .. })));
    assert_eq!(host.look_up(&AGENT, "old"), 0, "it would be renamed to itself");
}

#[test]
fn what_was_in_a_folder_that_is_gone_vanishes_before_it() {
    let mut host = Host::new();
    fs::create_dir(host.path("folder")).unwrap();
    fs::write(host.path("folder/file"), "").unwrap();
    host.settle();
    let folder = host.look_up(&ROOT, "folder");
    let file = host.tree.lookup(&ROOT, folder, &c("file")).unwrap().inode;
    fs::remove_dir_all(host.path("folder")).unwrap();
    let change = host.told().unwrap();
    assert_eq!(change.folder.path, name("1/folder"));
    assert_eq!(change.event, ChangeEvent::Vanished { name: name("file"), is_folder: false });
    assert_eq!(host.look_up(&ROOT, "folder"), 0, "for everyone else it is gone");
    assert_eq!(host.look_up(&AGENT, "folder"), folder);
    assert_eq!(host.tree.lookup(&AGENT, folder, &c("file")).unwrap().inode, file);
    host.tree.unlink(&AGENT, folder, &c("file")).unwrap();
    host.repeated();
    let vanished = ChangeEvent::Vanished { name: name("folder"), is_folder: true };
    assert_eq!(read(&mut host), Some(vanished));
    host.tree.rmdir(&AGENT, host.share, &c("folder")).unwrap();
}

/// What was told by the repetition of what was before it.
fn read(host: &mut Host) -> Option<ChangeEvent> {
    let change: Option<Change> = frame::read_frame(&mut host.agent, MAX_CHANGE_BYTES).ok();
    change.map(|change| change.event)
}

#[test]
fn a_file_that_vanishes_is_the_one_that_the_guest_knew() {
    let mut host = Host::new();
    fs::write(host.path("file"), "").unwrap();
    host.settle();
    let known = host.look_up(&ROOT, "file");
    fs::remove_file(host.path("file")).unwrap();
    let vanished = ChangeEvent::Vanished { name: name("file"), is_folder: false };
    assert_eq!(host.event(), Some(vanished));
    let entry = host.tree.lookup(&AGENT, host.share, &c("file")).unwrap();
    assert_eq!((entry.inode, entry.attr.st_nlink), (known, 1), "one link for the agent to take");
    host.tree.unlink(&AGENT, host.share, &c("file")).unwrap();
    host.repeated();
    assert_eq!(host.look_up(&AGENT, "file"), 0);
}

#[test]
fn what_the_host_changes_while_the_guest_is_served_is_told_after_that() {
    let mut host = Host::new();
    fs::write(host.path("new"), "").unwrap();
    host.tree.mkdir(&ROOT, host.share, &c("own"), 0o755, 0).unwrap();
    host.server.turn();
    let appeared = ChangeEvent::Appeared { name: name("new"), mode: libc::S_IFREG };
    assert_eq!(read(&mut host), Some(appeared));
}

#[test]
fn what_the_guest_does_itself_is_not_told() {
    let mut host = Host::new();
    let tree = Arc::clone(&host.tree);
    let folder = tree.mkdir(&ROOT, host.share, &c("folder"), 0o755, 0).unwrap().inode;
    let wanted = fuse_backend_rs::abi::fuse_abi::CreateIn {
        flags: RDWR,
        mode: 0o600,
        umask: 0,
        fuse_flags: 0,
    };
    let (file, handle, ..) = tree.create(&ROOT, folder, &c("file"), wanted).unwrap();
    let mut source = tempfile::tempfile().unwrap();
    source.write_all(b"12345678").unwrap();
    std::io::Seek::rewind(&mut source).unwrap();
    let handle = handle.unwrap();
    tree.write(&ROOT, file.inode, handle, &mut source, 8, 0, None, false, RDWR, 0).unwrap();
    tree.setattr(&ROOT, file.inode, blank_stat(), Some(handle), SetattrValid::SIZE).unwrap();
    tree.setattr(&ROOT, file.inode, blank_stat(), None, SetattrValid::MODE).unwrap();
    tree.release(&ROOT, file.inode, 0, handle, false, false, None).unwrap();
    tree.link(&ROOT, file.inode, host.share, &c("link")).unwrap();
    tree.rename(&ROOT, folder, &c("file"), host.share, &c("renamed"), 0).unwrap();
    tree.unlink(&ROOT, host.share, &c("renamed")).unwrap();
    tree.rmdir(&ROOT, host.share, &c("folder")).unwrap();
    tree.symlink(&ROOT, &c("target"), host.share, &c("symbolic")).unwrap();
    assert_eq!(host.event(), None);
    fs::write(host.path("link"), "by the host").unwrap();
    assert_eq!(host.event(), Some(ChangeEvent::Modified { name: name("link") }));
}

#[test]
fn a_file_that_is_a_mount_is_told_by_its_own_name() {
    let mut host = Host::new();
    fs::write(host.folder.path().join("2"), "changed").unwrap();
    let change = host.told().unwrap();
    assert_eq!(change.folder.path, name(""));
    assert_eq!(change.event, ChangeEvent::Modified { name: name("2") });
}

#[test]
fn what_the_agent_touches_and_opens_stays_as_it_is() {
    let mut host = Host::new();
    fs::write(host.path("file"), "content").unwrap();
    host.settle();
    let file = host.look_up(&ROOT, "file");
    fs::write(host.path("file"), "changed").unwrap();
    assert_eq!(host.event(), Some(ChangeEvent::Modified { name: name("file") }));
    let before = fs::metadata(host.path("file")).unwrap().modified().unwrap();
    let times = SetattrValid::MTIME;
    host.tree.setattr(&AGENT, file, blank_stat(), None, times).unwrap();
    assert_eq!(fs::metadata(host.path("file")).unwrap().modified().unwrap(), before);
    let (handle, ..) = host.tree.open(&AGENT, file, RDWR | libc::O_TRUNC as u32, 0).unwrap();
    assert_eq!(fs::read(host.path("file")).unwrap(), b"changed");
    host.tree.release(&AGENT, file, 0, handle.unwrap(), false, false, None).unwrap();
}

#[test]
fn the_agents_thread_changes_nothing_by_itself() {
    let host = Host::new();
    fs::write(host.path("file"), "content").unwrap();
    let tree = &host.tree;
    let file = host.look_up(&ROOT, "file");
    let outcomes = [
        errno(tree.unlink(&AGENT, host.share, &c("file"))),
        errno(tree.mkdir(&AGENT, host.share, &c("new"), 0o700, 0)),
        errno(tree.rename(&AGENT, host.share, &c("file"), host.share, &c("new"), 0)),
        errno(tree.link(&AGENT, file, host.share, &c("new"))),
        errno(tree.setattr(&AGENT, file, blank_stat(), None, SetattrValid::SIZE)),
    ];
    assert_eq!(outcomes, [libc::EPERM; 5]);
    assert_eq!(fs::read(host.path("file")).unwrap(), b"content");
    assert_ne!(tree.open(&AGENT, file, RDONLY, 0).unwrap().0, None);
}

#[test]
fn a_guest_that_hears_nothing_costs_no_more_than_the_bound() {
    let mut host = Host::new();
    for number in 0..3000 {
        fs::write(host.path(&number.to_string()), "").unwrap();
        host.tree.tell();
    }
    assert!(host.event().is_some());
    assert_eq!(host.event(), None, "one at a time");
    drop(std::mem::replace(&mut host.agent, UnixStream::pair().unwrap().0));
    host.tree.listen();
    assert!(host.tree.state().changes.as_ref().unwrap().guest().is_none());
    fs::write(host.path("more"), "").unwrap();
    assert_eq!(host.event(), None);
}

#[test]
fn folders_that_are_forgotten_are_watched_no_more() {
    let mut host = Host::new();
    fs::create_dir(host.path("folder")).unwrap();
    host.settle();
    let folder = host.look_up(&ROOT, "folder");
    fs::write(host.path("folder/one"), "").unwrap();
    assert!(matches!(host.event(), Some(ChangeEvent::Appeared { .. })));
    host.repeated();
    host.settle();
    host.tree.forget(&ROOT, folder, u64::MAX);
    fs::write(host.path("folder/two"), "").unwrap();
    assert_eq!(host.event(), None);
    let mut rest = Vec::new();
    let _ = host.agent.read_to_end(&mut rest);
    assert!(rest.is_empty());
}
