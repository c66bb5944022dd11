//! What a container could leave on the machine: counted before, compared after.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use crate::Runtime;

/// What ends asynchronously (a killed monitor's memory and mounts) has this long to go.
const GRACE: Duration = Duration::from_secs(20);

/// Where a runtime might put what is nobody's state.
const FOLDERS: [&str; 5] = ["/tmp", "/run", "/run/cofferdam", "/run/netns", "/dev/shm"];

/// Processes, mounts, cgroups, sockets and files that name one runtime's tag, the state below its root,
/// and what is on the host's own network.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    processes: BTreeSet<String>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    sockets: BTreeSet<String>,
    files: BTreeSet<String>,
    state: BTreeSet<String>,
    network: BTreeSet<String>,
}

impl Leftovers {
    /// What is there now.
    #[must_use]
    pub fn before(runtime: &Runtime) -> Self {
        Self::tagged(&runtime.tag(), runtime.root())
    }

    /// What is there now with a tag in its name, and below a root of states.
    pub(crate) fn tagged(tag: &str, root: &Path) -> Self {
        Self {
            processes: processes(tag),
            mounts: mounts(tag),
            cgroups: cgroups(tag),
            sockets: sockets(tag),
            files: FOLDERS.iter().flat_map(|folder| files(Path::new(folder), tag)).collect(),
            state: names(root),
            network: network(),
        }
    }

    /// The same without a process that is nobody's rest.
    pub(crate) fn without(mut self, pid: u32) -> Self {
        self.processes.retain(|process| !process.starts_with(&format!("{pid} ")));
        self
    }

    /// The same without a daemon's sockets, which are its own: a connection that a client has closed is
    /// on record, by the path that it was made to, until the daemon has heard of it.
    pub(crate) fn without_sockets_at(mut self, path: &Path) -> Self {
        let path = path.display().to_string();
        self.sockets.retain(|socket| !socket.starts_with(&path));
        self
    }

    /// The same without states whose record says that they are of something without the tag: others
    /// use the same root. One without a record is anybody's, and counts.
    pub(crate) fn without_states_of_others(mut self, tag: &str, root: &Path) -> Self {
        let record = |name: &String| fs::read_to_string(root.join(name).join("state.json"));
        self.state.retain(|name| record(name).map_or(true, |record| record.contains(tag)));
        self
    }

    /// Nothing more is there than was before.
    #[track_caller]
    pub fn none_since(&self, runtime: &Runtime) {
        if let Some(left) = self.since(runtime) {
            panic!("{left}");
        }
    }

    /// What is there now and was not before, or the other way round, in words.
    #[must_use]
    pub fn since(&self, runtime: &Runtime) -> Option<String> {
        self.since_but(runtime, &[])
    }

    /// The same without control groups and state folders that somebody said would be left.
    #[must_use]
    pub fn since_but(&self, runtime: &Runtime, named: &[PathBuf]) -> Option<String> {
        self.unlike(|| {
            let mut now = Self::before(runtime);
            now.forget(runtime.root(), named);
            now
        })
    }

    /// What this finds and was not before, or the other way round, in words.
    #[must_use]
    pub fn unlike(&self, find: impl Fn() -> Self) -> Option<String> {
        let end = Instant::now() + GRACE;
        loop {
            let now = find();
            if now == *self {
                return None;
            }
            if Instant::now() > end {
                return Some(format!("left behind: {now:#?}\nbefore: {self:#?}"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Leftovers {
    fn forget(&mut self, root: &Path, named: &[PathBuf]) {
        let is_in = |path: &Path| named.iter().any(|named| path.starts_with(named));
        self.cgroups.retain(|path| !is_in(Path::new(path)));
        self.state.retain(|name| !is_in(&root.join(name)));
    }
}

/// Processes whose command line or cgroup has the tag: the runtime's (`--root`), the monitor's
/// (the sandbox's id) and, in namespaces, the container's (a cgroup named after it).
pub(crate) fn processes(tag: &str) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeSet::new() };
    let text = |path: &Path, name| fs::read(path.join(name)).unwrap_or_default();
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter_map(|entry| {
            let path = entry.path();
            let told = [text(&path, "cmdline"), text(&path, "cgroup")].concat();
            let name = String::from_utf8_lossy(&text(&path, "comm")).trim().to_owned();
            let named = String::from_utf8_lossy(&told).contains(tag);
            named.then(|| format!("{} {name}", entry.file_name().display()))
        })
        .collect()
}

pub(crate) fn mounts(tag: &str) -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter(|line| line.contains(tag)).map(str::to_owned).collect()
}

/// By their paths: how many hold one changes.
fn sockets(tag: &str) -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let paths = text.lines().filter_map(|line| line.split_ascii_whitespace().nth(7));
    paths.filter(|path| path.contains(tag)).map(str::to_owned).collect()
}

fn files(folder: &Path, tag: &str) -> Vec<String> {
    let named = names(folder).into_iter().filter(|name| name.contains(tag));
    named.map(|name| folder.join(name).display().to_string()).collect()
}

/// Taps: a sandbox's are in its container's network namespace, with what redirects frames to them, and
/// never here.
fn network() -> BTreeSet<String> {
    let ours = |name: &String| name.starts_with("cofferdam");
    let interfaces = names(Path::new("/sys/class/net")).into_iter().filter(ours);
    interfaces.collect()
}

/// In every hierarchy.
fn cgroups(tag: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let _ = collect_cgroups(Path::new("/sys/fs/cgroup"), tag, 0, &mut found);
    found
}

fn collect_cgroups(
    folder: &Path,
    tag: &str,
    depth: u32,
    found: &mut BTreeSet<String>,
) -> io::Result<()> {
    if depth > 5 {
        return Ok(());
    }
    for entry in fs::read_dir(folder)?.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name().to_string_lossy().contains(tag) {
                found.insert(entry.path().display().to_string());
            }
            let _ = collect_cgroups(&entry.path(), tag, depth + 1, found);
        }
    }
    Ok(())
}

fn names(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeSet::new() };
    entries.filter_map(Result::ok).map(|entry| entry.file_name().display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_states_those_of_others_do_not_count() {
        let root = tempfile::tempdir().unwrap();
        let names = ["ours", "theirs", "broken"];
        for (name, record) in [("ours", "/tmp/tag-1/x"), ("theirs", "/tmp/tag-2/x")] {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("state.json"), record).unwrap();
        }
        let left = Leftovers { state: names.map(str::to_owned).into(), ..Leftovers::default() };
        let left = left.without_states_of_others("tag-1", root.path());
        assert_eq!(left.state, ["broken", "ours"].map(str::to_owned).into());
    }

    #[test]
    fn only_what_was_named_is_forgotten() {
        let set = |list: &[&str]| list.iter().map(|&path| path.to_owned()).collect();
        let mut left = Leftovers {
            processes: set(&["7 sleep"]),
            cgroups: set(&["/cg/memory/a", "/cg/memory/a/b", "/cg/pids/a"]),
            state: set(&["a", "a~7"]),
            ..Leftovers::default()
        };
        left.forget(Path::new("/root"), &["/cg/memory/a".into(), "/root/a~7".into()]);
        assert_eq!(left.cgroups, set(&["/cg/pids/a"]));
        assert_eq!((left.state, left.processes), (set(&["a"]), set(&["7 sleep"])));
    }
}
