//! The control group of a whole sandbox on the host: made before its first process, which is born in
//! it (v2) or moved into it before it executes anything (v1), and removed after the last.
//!
//! ```text
//!   planned ──create──▶ empty group, limits set ──enter──▶ in use ──remove──▶ (nothing)
//!      └ recorded by the caller: a create that is cut leaves to `delete` what it needs
//! ```
//! With v2 the controllers are enabled on the way down. With v1 only the hierarchies that limit
//! something get a group.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::limits::Version;

/// Where every distribution mounts them.
const ROOT: &str = "/sys/fs/cgroup";
/// What limits a sandbox.
const CONTROLLERS_V1: [&str; 4] = ["memory", "pids", "cpu", "blkio"];
const CONTROLLERS_V2: [&str; 4] = ["memory", "pids", "cpu", "io"];
/// A monitor is one process; more are left than are worth a look at each.
const MAX_MEMBERS: usize = 1024;
/// The kernel takes processes apart in its own time.
const PAUSE: Duration = Duration::from_millis(2);

/// Why a sandbox has no group.
#[derive(Debug, thiserror::Error)]
pub enum HostGroupError {
    /// The path is none.
    #[error("linux.cgroupsPath is {0}: it must name a group and have no .. in it")]
    Path(PathBuf),
    /// Somebody else's processes are in it. The words are runc's.
    #[error("container's cgroup is not empty: there are processes in {0}")]
    InUse(PathBuf),
    /// The kernel refused.
    #[error("Cannot {action} the control group {}", .path.display())]
    Io {
        /// Make, enter, …
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl HostGroupError {
    /// Whether groups are simply not ours to make: for a user without privileges, or in a
    /// container, whose hierarchy is read-only or has processes where groups would have to divide.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        let denied = [libc::EACCES, libc::EPERM, libc::EROFS, libc::EBUSY, libc::EOPNOTSUPP];
        source.raw_os_error().is_some_and(|errno| denied.contains(&errno))
    }
}

/// The group of one sandbox: a folder of each hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostGroup {
    version: Version,
    folders: Vec<PathBuf>,
}

impl HostGroup {
    /// The folders that a group with this path will have.
    ///
    /// # Errors
    /// When the path leads out of the hierarchies, or nowhere.
    pub fn planned(path: &Path) -> Result<Self, HostGroupError> {
        Self::planned_below(Path::new(ROOT), path)
    }

    fn planned_below(root: &Path, path: &Path) -> Result<Self, HostGroupError> {
        let climbs = path.components().any(|part| matches!(part, Component::ParentDir));
        let named = |part: &Component<'_>| matches!(part, Component::Normal(_));
        let relative: PathBuf = path.components().filter(named).collect();
        if climbs || relative.as_os_str().is_empty() {
            return Err(HostGroupError::Path(path.to_owned()));
        }
        if root.join("cgroup.controllers").exists() {
            let folders = vec![root.join(relative)];
            return Ok(Self { version: Version::V2, folders });
        }
        let there = CONTROLLERS_V1.iter().map(|name| root.join(name)).filter(|path| path.is_dir());
        let folders = there.map(|hierarchy| hierarchy.join(&relative)).collect();
        Ok(Self { version: Version::V1, folders })
    }

    /// A group of v2 that the caller has found.
    #[must_use]
    pub fn given(folder: PathBuf) -> Self {
        Self { version: Version::V2, folders: vec![folder] }
    }

    /// Which kind of hierarchy it is in.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Its folders.
    #[must_use]
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Sees that nobody is in it, if it is there already.
    ///
    /// # Errors
    /// When somebody is.
    pub fn check_unused(&self) -> Result<(), HostGroupError> {
        for folder in &self.folders {
            let inside = fs::read_to_string(folder.join("cgroup.procs"));
            if inside.is_ok_and(|list| !list.is_empty()) {
                return Err(HostGroupError::InUse(folder.clone()));
            }
        }
        Ok(())
    }

    /// Makes it.
    ///
    /// # Errors
    /// When the kernel refuses. What was made is for [`remove`].
    pub fn create(&self) -> Result<(), HostGroupError> {
        for folder in &self.folders {
            if self.version == Version::V2 {
                make_parents(folder)?;
            }
            fs::create_dir_all(folder).map_err(at("make", folder))?;
        }
        Ok(())
    }

    /// Moves a process into it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self, pid: i32) -> Result<(), HostGroupError> {
        for folder in &self.folders {
            super::write(&folder.join("cgroup.procs"), &pid.to_string())
                .map_err(at("enter", folder))?;
        }
        Ok(())
    }
}

fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> HostGroupError + 'a {
    move |source| HostGroupError::Io { action, path: path.to_owned(), source }
}

/// The groups above it, from the top, each with its controllers enabled for those below.
fn make_parents(folder: &Path) -> Result<(), HostGroupError> {
    let mut above: Vec<&Path> =
        folder.ancestors().skip(1).take_while(|path| path.starts_with(ROOT)).collect();
    above.reverse();
    for parent in above {
        make_one(parent)?;
        let control = parent.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&control).map_err(at("read", parent))?;
        let has = |name: &str| enabled.split_ascii_whitespace().any(|word| word == name);
        if CONTROLLERS_V2.iter().all(|name| has(name)) {
            continue;
        }
        let all = fs::read_to_string(parent.join("cgroup.controllers"));
        let all = all.map_err(at("read", parent))?;
        let can = |name: &str| all.split_ascii_whitespace().any(|word| word == name);
        let missing = CONTROLLERS_V2.iter().filter(|name| can(name) && !has(name));
        let enable: Vec<String> = missing.map(|name| format!("+{name}")).collect();
        if !enable.is_empty() {
            super::write(&control, &enable.join(" "))
                .map_err(at("enable controllers in", parent))?;
        }
    }
    Ok(())
}

/// A folder that is there already is as good: containers that start side by side make those above
/// them together.
fn make_one(folder: &Path) -> Result<(), HostGroupError> {
    match fs::create_dir(folder) {
        Err(_) if folder.is_dir() => Ok(()),
        made => made.map_err(at("make", folder)),
    }
}

/// Kills whoever is in these groups. Those that are gone already are no error.
pub fn kill_all(folders: &[PathBuf]) {
    folders.iter().for_each(|folder| kill_members(folder));
}

/// Removes these folders and any below them, when their last processes are gone; those that do not
/// go by themselves are killed. Folders that are gone already are no error, and one that stays keeps
/// no other from going.
///
/// # Errors
/// When some were not empty at the deadline; why the first of them.
pub fn remove(folders: &[PathBuf], deadline: Instant) -> io::Result<()> {
    let mut all = Ok(());
    for folder in folders {
        all = all.and(remove_one(folder, deadline));
    }
    all
}

/// Says which folders a create that failed could not take back, each by its name.
pub fn warn_of_left(folders: &[PathBuf], why: &io::Error) {
    let is_gone = |folder: &Path| match fs::symlink_metadata(folder) {
        Ok(_) => false,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    for folder in folders.iter().filter(|folder| !is_gone(folder)) {
        tracing::warn!("Cannot remove {}, a control group: {why}", folder.display());
    }
}

fn remove_one(folder: &Path, deadline: Instant) -> io::Result<()> {
    let mut killed = false;
    loop {
        match remove_tree(folder) {
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                if !killed {
                    kill_members(folder);
                    killed = true;
                }
                thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

/// Whoever is in a group that goes: at most a monitor that its runtime, killed itself, had not come to
/// record. By now the group is nobody else's, which was seen when it was made.
fn kill_members(folder: &Path) {
    if fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // Linux before 5.14, and v1. Who is gone already need not be killed.
    let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for member in members.lines().filter_map(|line| line.parse().ok()).take(MAX_MEMBERS) {
        let _ = kill(Pid::from_raw(member), Signal::SIGKILL);
    }
}

/// A sandbox makes no groups; an administrator may have.
fn remove_tree(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
        // A read-only hierarchy says so before it says that there is none.
        Err(_) if !folder.exists() => return Ok(()),
        other => return other,
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir(entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_a_folder_in_each_hierarchy_that_limits_or_in_the_only_one() {
        let root = tempfile::tempdir().unwrap();
        for name in ["memory", "cpu", "freezer"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let planned = |path: &str| HostGroup::planned_below(root.path(), Path::new(path)).unwrap();
        let v1 = planned("/a/b");
        assert_eq!(v1.version(), Version::V1);
        assert_eq!(v1.folders(), [root.path().join("memory/a/b"), root.path().join("cpu/a/b")]);
        fs::write(root.path().join("cgroup.controllers"), "memory").unwrap();
        let v2 = planned("a/b");
        assert_eq!((v2.version(), v2.folders()), (Version::V2, &[root.path().join("a/b")][..]));
    }

    #[test]
    fn a_path_that_is_none_is_refused() {
        for path in ["", "/", "/a/../b"] {
            let planned = HostGroup::planned(Path::new(path));
            assert!(matches!(planned, Err(HostGroupError::Path(_))), "{path}");
        }
    }

    #[test]
    fn the_groups_above_are_made_by_any_number_of_containers_at_once() {
        for _ in 0..200 {
            let root = tempfile::tempdir().unwrap();
            let above = root.path().join("docker");
            thread::scope(|scope| {
                let makers: Vec<_> = (0..4).map(|_| scope.spawn(|| make_one(&above))).collect();
                for maker in makers {
                    maker.join().unwrap().unwrap();
                }
            });
            assert!(above.is_dir());
        }
    }

    #[test]
    fn what_was_made_is_removed_and_what_is_gone_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("memory")).unwrap();
        let group = HostGroup::planned_below(root.path(), Path::new("/a")).unwrap();
        group.check_unused().unwrap();
        group.create().unwrap();
        group.create().unwrap();
        let folder = root.path().join("memory/a");
        fs::write(folder.join("cgroup.procs"), "1\n").unwrap();
        assert!(matches!(group.check_unused(), Err(HostGroupError::InUse(_))));
        fs::remove_file(folder.join("cgroup.procs")).unwrap();
        remove(group.folders(), Instant::now()).unwrap();
        assert!(!folder.exists());
        remove(group.folders(), Instant::now()).unwrap();
    }
}
