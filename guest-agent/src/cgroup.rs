//! A container's cgroup (v2): limits, device rules, and what the kernel tells about it.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_protocol::plan::{CgroupPlan, IdMappingPlan, UserNamespacePlan};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::inside::failure::{StartError, Step};
use crate::inside::hidden::write_whole;
use crate::inside::users;
use crate::sys;

/// A cgroup stays busy until the kernel has taken its last process apart.
const REMOVE_ATTEMPTS: u32 = 500;
const REMOVE_PAUSE: Duration = Duration::from_millis(2);
/// Groups in groups that a container may have made, to be removed with it: a path of more levels
/// than this is longer than a path may be.
const MAX_DEPTH: u32 = 128;
/// A listing of a cgroup's processes: more than the kernel's default `pid_max` makes no sense.
const MAX_PROCESSES: usize = 32 << 10;

/// A container's cgroup.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    folder: OwnedFd,
}

impl Cgroup {
    /// Makes the group and sets its limits. On failure nothing is left.
    pub(crate) fn create(root: &str, name: &str, plan: &CgroupPlan) -> Result<Self, StartError> {
        let path = Path::new(root).join(name);
        fs::create_dir(&path).step(|| format!("making the cgroup {}", path.display()))?;
        let limited = Self::open(&path).and_then(|cgroup| {
            cgroup.set_limits(plan)?;
            Ok(cgroup)
        });
        if limited.is_err() {
            // The error that matters is the first.
            let _ = fs::remove_dir(&path);
        }
        limited
    }

    fn open(path: &Path) -> Result<Self, StartError> {
        let folder = open_folder(path).step(|| format!("opening the cgroup {}", path.display()))?;
        Ok(Self { path: path.to_owned(), folder })
    }

    /// A group below it, or itself, whatever links a container could have made.
    pub(crate) fn below(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let stay = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let relative = match path.trim_start_matches('/') {
            "" => ".",
            relative => relative,
        };
        Ok(rustix::fs::openat2(&self.folder, relative, flags, Mode::empty(), stay)?)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn set_limits(&self, plan: &CgroupPlan) -> Result<(), StartError> {
        for (file, value) in &plan.files {
            self.write(file, value).step(|| format!("writing {value:?} to cgroup file {file}"))?;
        }
        Ok(())
    }

    /// Writes to a file of the group.
    pub(crate) fn write(&self, file: &str, value: &str) -> io::Result<()> {
        if file.contains('/') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, file, flags, Mode::empty())?;
        write_whole(file.as_fd(), value.as_bytes())
    }

    /// What a file of the group says, as far as `limit` bytes.
    pub(crate) fn read(&self, file: &str, limit: u64) -> io::Result<String> {
        if file.contains('/') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, file, flags, Mode::empty())?;
        let mut text = String::new();
        fs::File::from(file).take(limit).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Lets the root of a user namespace divide the group, as `Documentation/cgroup-v2` delegates it.
    pub(crate) fn give_to(&self, users: &UserNamespacePlan) -> io::Result<()> {
        const DELEGATED: [&str; 4] =
            [".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];
        let root = |list: &[IdMappingPlan]| users::outside(list, 0);
        let (uid, gid) = (root(&users.uids), root(&users.gids));
        DELEGATED
            .into_iter()
            .try_for_each(|file| std::os::unix::fs::chown(self.path.join(file), uid, gid))
    }

    /// Puts the device rules into force. After the container's own devices are made.
    pub(crate) fn restrict_devices(&self, plan: &CgroupPlan) -> Result<(), StartError> {
        let Some(program) = &plan.device_program else { return Ok(()) };
        let step = || "setting the device rules".to_owned();
        let program = sys::load_device_program(program).step(step)?;
        sys::attach_device_program(self.folder.as_fd(), program.as_fd()).step(step)
    }

    /// Kills every process in the group and those below it.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Kills them and waits until they are gone: as long as [`Self::remove`] does.
    pub(crate) async fn empty(&self) -> io::Result<()> {
        self.kill()?;
        for _ in 0..REMOVE_ATTEMPTS {
            if self.processes().is_empty() {
                break;
            }
            tokio::time::sleep(REMOVE_PAUSE).await;
        }
        Ok(())
    }

    /// Whether the OOM killer ended a process of the group. Without a memory controller: no.
    pub(crate) fn oom_killed(&self) -> bool {
        fs::read_to_string(self.path.join("memory.events")).is_ok_and(|text| has_oom_kill(&text))
    }

    /// The processes of the group and those below it, in the agent's pid namespace.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        collect_processes(&self.path, MAX_DEPTH, &mut found);
        found.truncate(MAX_PROCESSES);
        found
    }

    /// Removes the group and those below it, when their last processes are gone.
    pub(crate) async fn remove(&self) -> io::Result<()> {
        let mut result = Ok(());
        for _ in 0..REMOVE_ATTEMPTS {
            result = remove_tree(&self.path, MAX_DEPTH);
            match &result {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    tokio::time::sleep(REMOVE_PAUSE).await;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                _ => return result,
            }
        }
        result
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// The group that a process is in, beneath `root`.
pub(crate) fn of_process(root: &str, pid: u32) -> io::Result<OwnedFd> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let group = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = group.ok_or(io::ErrorKind::NotFound)?;
    open_folder(&Path::new(root).join(group))
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

fn has_oom_kill(events: &str) -> bool {
    let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok();
    events.lines().find_map(count).is_some_and(|kills| kills > 0)
}

fn subgroups(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

fn remove_tree(path: &Path, depth: u32) -> io::Result<()> {
    let depth = depth.checked_sub(1).ok_or(io::ErrorKind::QuotaExceeded)?;
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
        other => return other,
    }
    for folder in subgroups(path)? {
        remove_tree(&folder, depth)?;
    }
    fs::remove_dir(path)
}

/// What cannot be read is gone, or a threaded group, whose processes the group above lists.
fn collect_processes(path: &Path, depth: u32, found: &mut Vec<u32>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    if let Ok(text) = fs::read_to_string(path.join("cgroup.procs")) {
        found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    for folder in subgroups(path).unwrap_or_default() {
        if found.len() < MAX_PROCESSES {
            collect_processes(&folder, depth, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oom_kill_is_seen() {
        assert!(has_oom_kill("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n"));
        assert!(!has_oom_kill("low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n"));
        assert!(!has_oom_kill(""));
    }
}
