//! The control groups of a container as folders: where they are, who is in them, emptying and
//! removing them. `libcontainer` makes them and sets their limits; from then on only the folders
//! matter, and those are recorded, so that a later verb looks where `create` put the container and
//! nowhere else.
//!
//! Hostile: the container may make groups below its own and move its processes between them, and
//! goes on doing so while this looks. Every walk is bounded and every wait has an end.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use super::sys;

/// Most groups below a container's own that are walked through. A container that makes more is
/// still killed (`cgroup.kill`, its pid namespace), but not listed in full.
const MAX_GROUPS: usize = 4096;

/// Most processes that are listed.
const MAX_PROCESSES: usize = 65536;

/// Pause between two looks at a group that is not empty yet.
const PAUSE: Duration = Duration::from_millis(5);

/// A mounted hierarchy of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    mount_point: PathBuf,
    /// The group that the mount shows as its root: not `/` where this runs in a container.
    root: PathBuf,
    /// Controllers of v1 (`memory`, `name=systemd`); empty: v2.
    controllers: Vec<String>,
}

impl Hierarchy {
    fn has_exactly(&self, wanted: &[&str]) -> bool {
        self.controllers.is_empty() == wanted.is_empty()
            && wanted.iter().all(|c| self.controllers.iter().any(|own| own == c))
    }
}

/// The controllers that get a group of their own on v1; others (`name=systemd`) are left alone.
const V1_CONTROLLERS: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "blkio",
];

/// Whether the machine has only cgroup v2.
pub(super) fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Where version 2 is mounted.
///
/// # Errors
/// When the mounts of this process cannot be read.
pub(super) fn mount_of_version_2() -> io::Result<Option<PathBuf>> {
    let mut hierarchies = hierarchies()?.into_iter();
    Ok(hierarchies.find(|h| h.controllers.is_empty()).map(|h| h.mount_point))
}

/// The controllers that limits can be set with.
///
/// # Errors
/// When the hierarchies cannot be read.
pub(super) fn controllers() -> io::Result<Vec<String>> {
    if is_unified() {
        let all = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
        return Ok(all.split_ascii_whitespace().map(str::to_owned).collect());
    }
    Ok(hierarchies()?.into_iter().flat_map(|h| h.controllers).collect())
}

/// The folders that a container with this `cgroupsPath` will have, before they exist.
///
/// # Errors
/// When the mounts of this process cannot be read.
pub(super) fn planned(cgroup_path: &Path) -> io::Result<Vec<PathBuf>> {
    let relative: PathBuf =
        cgroup_path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
    let unified = is_unified();
    Ok(hierarchies()?
        .into_iter()
        .filter(|h| {
            // With v1 v2 is beside it, for whatever is not a controller.
            !unified || h.controllers.is_empty()
        })
        .map(|h| h.mount_point.join(&relative))
        .collect())
}

/// The folders of the groups that a process is in and this process is not: those that were made
/// for its container.
///
/// # Errors
/// When `/proc` cannot be read.
pub(super) fn of_process(pid: i32) -> io::Result<Vec<PathBuf>> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let theirs = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let hierarchies = hierarchies()?;
    let mut folders = Vec::new();
    for line in theirs.lines().filter(|line| !own.lines().any(|other| other == *line)) {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        if let Some(folder) = folder_of(&hierarchies, controllers, Path::new(path)) {
            folders.push(folder);
        }
    }
    Ok(folders)
}

fn folder_of(hierarchies: &[Hierarchy], controllers: &str, path: &Path) -> Option<PathBuf> {
    let wanted: Vec<&str> = controllers.split(',').filter(|c| !c.is_empty()).collect();
    let hierarchy = hierarchies.iter().find(|h| h.has_exactly(&wanted))?;
    let below = path.strip_prefix(&hierarchy.root).ok()?;
    // The mount's root itself is never a container's.
    (below.components().next().is_some()).then(|| hierarchy.mount_point.join(below))
}

/// What a mount of control groups shows: where its hierarchy is mounted here, and the group's folder.
pub(super) fn shown_by(kind: &str, options: &str, root: &Path) -> Option<(PathBuf, PathBuf)> {
    let controllers =
        if kind == "cgroup2" { String::new() } else { controllers_of(options).join(",") };
    let hierarchies = hierarchies().ok()?;
    let wanted: Vec<&str> = controllers.split(',').filter(|c| !c.is_empty()).collect();
    let hierarchy = hierarchies.into_iter().find(|h| h.has_exactly(&wanted))?;
    let below = root.strip_prefix(&hierarchy.root).ok()?;
    let folder = hierarchy.mount_point.join(below);
    Some((hierarchy.mount_point, folder))
}

/// Puts a process back into the groups that this process is in.
///
/// # Errors
/// When a hierarchy refuses.
pub(super) fn return_to_own(pid: i32) -> io::Result<()> {
    let own = own_groups(&hierarchies()?)?;
    own.iter().try_for_each(|folder| write(&folder.join("cgroup.procs"), &pid.to_string()))
}

/// The groups that this process is in, of these hierarchies.
fn own_groups(hierarchies: &[Hierarchy]) -> io::Result<Vec<PathBuf>> {
    let mut groups = Vec::new();
    for line in fs::read_to_string("/proc/self/cgroup")?.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let wanted: Vec<&str> = controllers.split(',').filter(|c| !c.is_empty()).collect();
        let Some(hierarchy) = hierarchies.iter().find(|h| h.has_exactly(&wanted)) else { continue };
        if let Ok(below) = Path::new(path).strip_prefix(&hierarchy.root) {
            groups.push(hierarchy.mount_point.join(below));
        }
    }
    Ok(groups)
}

/// A group below these that has processes.
pub(super) fn populated_below(folders: &[PathBuf]) -> Option<PathBuf> {
    let below = |folder: &PathBuf| groups_below(folder).into_iter().skip(1);
    folders.iter().flat_map(below).find(|group| {
        fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|list| !list.is_empty())
    })
}

fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().filter_map(parse_mount).collect())
}

fn parse_mount(line: &str) -> Option<Hierarchy> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let kind = after.next()?;
    let options = after.nth(1)?;
    let mut before = before.split(' ').skip(3);
    let (root, mount_point) = (before.next()?, before.next()?);
    let controllers = match kind {
        "cgroup2" => Vec::new(),
        "cgroup" => controllers_of(options),
        _ => return None,
    };
    if kind == "cgroup" && controllers.is_empty() {
        return None;
    }
    Some(Hierarchy { mount_point: mount_point.into(), root: root.into(), controllers })
}

/// The controllers of v1 among the options of a mount.
fn controllers_of(options: &str) -> Vec<String> {
    let known = |option: &&str| option.starts_with("name=") || V1_CONTROLLERS.contains(option);
    options.split(',').filter(known).map(str::to_owned).collect()
}

/// Whether a group, if there is one, stops every process that enters it: by itself or by one above.
pub(super) fn is_frozen(folder: &Path) -> bool {
    let reads = |name: &str, frozen: &[&str]| {
        fs::read_to_string(folder.join(name)).is_ok_and(|state| frozen.contains(&state.trim()))
    };
    reads("freezer.state", &["FREEZING", "FROZEN"]) || reads("cgroup.freeze", &["1"])
}

/// Sets the most processes that there may be.
///
/// # Errors
/// When no group can limit them.
pub(super) fn limit_processes(folders: &[PathBuf], limit: &str) -> io::Result<()> {
    let mut files = folders.iter().map(|folder| folder.join("pids.max"));
    match files.find(|file| file.exists()) {
        Some(file) => write(&file, limit),
        None if limit == "max" => Ok(()),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Whether a folder is a group of the hierarchy of this controller.
pub(super) fn has_controller(folder: &Path, controller: &str) -> bool {
    let hierarchies = hierarchies().unwrap_or_default();
    hierarchies.iter().any(|hierarchy| {
        hierarchy.controllers.iter().any(|own| own == controller)
            && folder.starts_with(&hierarchy.mount_point)
    })
}

/// Puts this process into a container's group of the hierarchies that have no controllers: that of
/// systemd, and v2 beside v1. `libcontainer` leaves a container where its caller is, and what the
/// container's cgroup namespace shows as its root is where its first process was born.
///
/// # Errors
/// When a hierarchy refuses.
pub(super) fn enter_without_controllers(cgroup_path: &Path) -> io::Result<()> {
    if is_unified() {
        return Ok(());
    }
    let relative: PathBuf =
        cgroup_path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
    for hierarchy in hierarchies()?.iter().filter(|h| has_no_v1_controller(h)) {
        let folder = hierarchy.mount_point.join(&relative);
        match fs::create_dir_all(&folder)
            .and_then(|()| write(&folder.join("cgroup.procs"), THE_WRITER))
        {
            // Not this user's to change: then it is of no use to anyone either.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            other => other?,
        }
    }
    Ok(())
}

/// In `cgroup.procs`: whoever writes it.
const THE_WRITER: &str = "0";

/// Where this process was before it entered groups of the hierarchies without controllers.
pub(super) struct Before(Vec<PathBuf>);

impl Before {
    /// Now.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(super) fn of_this_process() -> io::Result<Self> {
        if is_unified() {
            return Ok(Self(Vec::new()));
        }
        let mut without = hierarchies()?;
        without.retain(has_no_v1_controller);
        own_groups(&without).map(Self)
    }

    /// Returns there. A hierarchy that could not be entered may not be written either.
    ///
    /// # Errors
    /// When a hierarchy refuses.
    pub(super) fn return_there(&self) -> io::Result<()> {
        for folder in &self.0 {
            match write(&folder.join("cgroup.procs"), THE_WRITER) {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
                other => other?,
            }
        }
        Ok(())
    }
}

fn has_no_v1_controller(hierarchy: &Hierarchy) -> bool {
    !hierarchy.controllers.iter().any(|c| V1_CONTROLLERS.contains(&c.as_str()))
}

/// Whether this is the folder of a group.
pub(super) fn exists(folder: &Path) -> bool {
    folder.join("cgroup.procs").exists()
}

/// Every process in these groups and below, each once.
pub(super) fn processes(folders: &[PathBuf]) -> Vec<i32> {
    let mut pids = Vec::new();
    for folder in folders {
        for group in groups_below(folder) {
            let Ok(list) = fs::read_to_string(group.join("cgroup.procs")) else { continue };
            pids.extend(
                list.lines()
                    .take(MAX_PROCESSES)
                    .filter_map(|l| l.parse::<i32>().ok())
                    .filter(|p| *p > 0),
            );
        }
    }
    pids.sort_unstable();
    pids.dedup();
    pids.truncate(MAX_PROCESSES);
    pids
}

/// A group and those below it, parents first.
fn groups_below(folder: &Path) -> Vec<PathBuf> {
    let mut groups = Vec::new();
    if folder.is_dir() {
        groups.push(folder.to_owned());
    }
    let mut next = 0;
    while next < groups.len() && groups.len() < MAX_GROUPS {
        let Ok(entries) = fs::read_dir(&groups[next]) else { break };
        let children = entries
            .filter_map(Result::ok)
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .map(|e| e.path());
        groups.extend(children.take(MAX_GROUPS));
        next += 1;
    }
    groups
}

/// Sends a signal to every process of the groups, until a look finds none that did not get it:
/// a process that forks meanwhile does not escape with its child.
///
/// # Errors
/// When a process could not be signalled for another reason than that it is gone.
pub(super) fn signal_all(folders: &[PathBuf], signal: i32) -> io::Result<()> {
    let mut told = std::collections::HashSet::new();
    for _ in 0..16 {
        let new: Vec<i32> =
            processes(folders).into_iter().filter(|pid| told.insert(*pid)).collect();
        if new.is_empty() {
            break;
        }
        for pid in new {
            match sys::kill(pid, signal) {
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Kills whatever is in the groups and removes them. Groups that are gone already are no error.
///
/// # Errors
/// When some were not empty at the deadline: a process in an uninterruptible wait.
pub(super) fn destroy(folders: &[PathBuf], deadline: Instant) -> io::Result<()> {
    loop {
        thaw(folders);
        kill_everything(folders);
        // One that stays keeps no other from going.
        let mut result = Ok(());
        for folder in folders {
            result = result.and(remove(folder));
        }
        match result {
            Ok(()) => return Ok(()),
            Err(e) if Instant::now() >= deadline => return Err(e),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Has every process of the groups die, frozen or not: none runs on meanwhile.
pub(super) fn kill_frozen(folders: &[PathBuf]) {
    kill_everything(folders);
    thaw(folders);
}

/// A frozen process of v1 dies only when it is thawed.
fn thaw(folders: &[PathBuf]) {
    for folder in folders {
        // Absent but for the freezer's own hierarchy and v2.
        let _ = write(&folder.join("freezer.state"), "THAWED");
        let _ = write(&folder.join("cgroup.freeze"), "0");
    }
}

fn kill_everything(folders: &[PathBuf]) {
    for folder in folders {
        // v2 since Linux 5.14: at once, and no fork escapes it.
        let _ = write(&folder.join("cgroup.kill"), "1");
    }
    for pid in processes(folders) {
        let _ = sys::kill(pid, libc::SIGKILL);
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    use io::Write;
    fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// Removes a group and those below it.
fn remove(folder: &Path) -> io::Result<()> {
    // Most have none below, and then this is all there is to do.
    match fs::remove_dir(folder) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for group in groups_below(folder).iter().rev() {
        match fs::remove_dir(group) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /proc rw,relatime - proc proc rw";

    fn hybrid() -> Vec<Hierarchy> {
        HYBRID.lines().filter_map(parse_mount).collect()
    }

    #[test]
    fn a_line_of_a_process_leads_to_the_folder_of_its_group() {
        let at = |controllers, path: &str| folder_of(&hybrid(), controllers, Path::new(path));
        assert_eq!(at("memory", "/a/b"), Some("/sys/fs/cgroup/memory/a/b".into()));
        assert_eq!(at("cpu,cpuacct", "/a"), Some("/sys/fs/cgroup/cpu,cpuacct/a".into()));
        assert_eq!(at("", "/a"), Some("/sys/fs/cgroup/unified/a".into()));
        assert_eq!(at("name=systemd", "/a"), Some("/sys/fs/cgroup/systemd/a".into()));
    }

    #[test]
    fn the_root_of_a_hierarchy_and_an_unknown_controller_have_no_folder() {
        assert_eq!(folder_of(&hybrid(), "memory", Path::new("/")), None);
        assert_eq!(folder_of(&hybrid(), "pids", Path::new("/a")), None);
    }

    #[test]
    fn a_mount_that_shows_part_of_a_hierarchy_is_seen_through() {
        let mounts: Vec<_> =
            parse_mount("1 2 0:3 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw")
                .into_iter()
                .collect();
        let at = |path: &str| folder_of(&mounts, "", Path::new(path));
        assert_eq!(at("/docker/x/a"), Some("/sys/fs/cgroup/a".into()));
        assert_eq!(at("/other"), None);
    }

    #[test]
    fn folders_that_are_gone_are_no_error() {
        let gone = [PathBuf::from("/sys/fs/cgroup/no-such-group-of-cofferdam")];
        assert!(processes(&gone).is_empty());
        destroy(&gone, Instant::now()).unwrap();
    }
}
