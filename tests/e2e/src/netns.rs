//! A network namespace that a daemon takes for the host's: its bridges, packet filter and ports go with it.
//! And what is done inside of one.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// It goes when this is dropped.
#[derive(Debug)]
pub(crate) struct NetworkNamespace {
    name: String,
}

impl NetworkNamespace {
    /// One with nothing but its loopback interface.
    pub(crate) fn new(daemon: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{daemon}-{}-{serial}", std::process::id());
        let namespace = Self { name };
        ip(&["netns", "add", &namespace.name]);
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"]);
        namespace
    }

    /// Where it is bound.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A program in one, or on the host; not yet run. Its mounts are the host's.
    pub(crate) fn command(namespace: Option<&Self>, program: &str) -> Command {
        let Some(namespace) = namespace else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", namespace.path().display())).arg(program);
        command
    }
}

/// Does something in the network namespace at a path, and nowhere else.
pub fn inside_network<T: Send>(path: &Path, act: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        act()
    };
    thread::scope(|scope| scope.spawn(enter).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
}
