//! A systemd that manages a branch of the machine's control groups (v2): process 1 of namespaces of
//! its own, in which a runtime is started to ask it for scopes.
//!
//! It is the one of the root file system that boots as a machine, so that this machine need not
//! have any; and it has nothing to start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Runtime, setting, until};

const TOP: &str = "/sys/fs/cgroup";
const READY: Duration = Duration::from_secs(60);
const RELOADED: Duration = Duration::from_secs(3);
const DELETED: Duration = Duration::from_secs(2);

/// `$0` is the group, `$1` the root file system, `$2` the folder of units, beside those in which systemd
/// keeps what it was told of units while it runs. Each folder in which
/// Debian has libraries of systemd's is named, since the root stays this machine's.
const BOOT: &str = r#"
    echo 0 > "$0/cgroup.procs" && exec unshare --cgroup sh -ec '
        umount --lazy /sys/fs/cgroup
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        mount -t tmpfs tmpfs /run
        control=/run/systemd/system.control:/run/systemd/transient
        export container=cofferdam-e2e SYSTEMD_UNIT_PATH="$control:$1"
        lib="$0/usr/lib/x86_64-linux-gnu"
        exec "$0/lib64/ld-linux-x86-64.so.2" --library-path "$lib:$lib/systemd:$0/usr/lib/systemd" \
            --argv0 systemd "$0/usr/lib/systemd/systemd" --system --unit=nothing.target
    ' "$1" "$2"
"#;

/// A systemd that is ready; it and all that it manages end when this is dropped.
#[derive(Debug)]
pub struct Systemd {
    group: PathBuf,
    outside: Child,
    process: i32,
    _units: TempDir,
}

impl Systemd {
    /// Starts one.
    #[must_use]
    pub fn start(name: &str) -> Self {
        let top = Path::new(TOP);
        fs::write(top.join("cgroup.subtree_control"), "+memory +pids +cpu +cpuset").unwrap();
        let group = top.join(format!("systemd-{name}"));
        fs::create_dir(&group).unwrap();
        let units = TempDir::with_prefix("cofferdam-units-").unwrap();
        fs::write(units.path().join("nothing.target"), "[Unit]\nDescription=Nothing\n").unwrap();
        let outside = Command::new("unshare")
            .args(["--fork", "--kill-child", "--pid", "--mount", "--mount-proc"])
            .args(["sh", "-ec", BOOT])
            .arg(&group)
            .arg(setting("COFFERDAM_MACHINE"))
            .arg(units.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut systemd = Self { group, outside, process: 0, _units: units };
        systemd.wait_ready();
        systemd
    }

    /// Its number here.
    pub(crate) const fn process(&self) -> i32 {
        self.process
    }

    /// Has it read its units anew, as `systemctl daemon-reload` does, and set what it knows of their
    /// groups. Nothing says when that is done.
    pub fn reload(&self) {
        self.signal(Signal::SIGHUP);
        thread::sleep(RELOADED);
    }

    /// Has a container in this scope deleted while it does nothing, and it then read its units anew
    /// before it looks at anything else: whether the deletion succeeded.
    #[must_use]
    pub fn reload_in_deletion(&self, runtime: &Runtime, id: &str, scope: &Path) -> bool {
        self.signal(Signal::SIGSTOP);
        let mut deletion = runtime.command(&["delete", "--force", id]).spawn().unwrap();
        let members = || fs::read_to_string(scope.join("cgroup.procs")).unwrap_or_default();
        until("nobody is in the scope", || members().is_empty());
        // A deletion that does not wait for systemd is over then.
        thread::sleep(DELETED);
        self.signal(Signal::SIGHUP);
        self.signal(Signal::SIGCONT);
        thread::sleep(RELOADED);
        deletion.wait().unwrap().success()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process), signal).unwrap();
    }

    /// The group in which it is itself.
    #[must_use]
    pub fn own_group(&self) -> PathBuf {
        self.group.join("init.scope")
    }

    /// Where a group is that it and the runtime see at this path.
    #[must_use]
    pub fn group(&self, path: &str) -> PathBuf {
        self.group.join(path.trim_start_matches(TOP).trim_start_matches('/'))
    }

    fn wait_ready(&mut self) {
        let end = Instant::now() + READY;
        let outside = self.outside.id();
        loop {
            let children = format!("/proc/{outside}/task/{outside}/children");
            let child = fs::read_to_string(children).unwrap_or_default();
            self.process = child.trim().parse().unwrap_or_default();
            let socket = format!("/proc/{}/root/run/systemd/private", self.process);
            if self.process != 0 && Path::new(&socket).exists() {
                return;
            }
            assert!(Instant::now() < end, "systemd does not come up");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // With the first of a process namespace all of it ends.
        if self.process != 0 {
            let _ = kill(Pid::from_raw(self.process), Signal::SIGKILL);
        }
        let _ = self.outside.wait();
        let end = Instant::now() + READY;
        while self.group.exists() && Instant::now() < end {
            remove_groups(&self.group);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn remove_groups(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}
