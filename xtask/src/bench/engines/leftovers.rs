//! What containers could leave on the machine: looked for before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::containerd::Containerd;
use crate::process;

/// Where shims and runtimes keep what they know, beside containerd's own folder.
const FOLDERS: [&str; 5] = [
    "/run/containerd/s",
    "/run/containerd/fifo",
    "/run/containerd/cofferdam",
    "/run/containerd/runc",
    "/run/cofferdam",
];

/// Processes, mounts, control groups, files and network interfaces, in words.
pub(super) struct Leftovers(BTreeSet<String>);

impl Leftovers {
    /// What there is now of an engine's containers, whose network namespaces these are.
    pub(super) fn now(containerd: &Containerd, networks: &[String]) -> Self {
        let tag = containerd.namespace();
        let mut found = BTreeSet::new();
        collect_processes(tag, containerd.pid(), &mut found);
        collect_mounts(containerd, &mut found);
        collect_groups(Path::new("/sys/fs/cgroup"), tag, &mut found);
        for folder in FOLDERS {
            collect_files(Path::new(folder), &mut found);
        }
        collect_files(&containerd.folder().join("state"), &mut found);
        collect_files(&containerd.folder().join("root/io.containerd.runtime.v2.task"), &mut found);
        networks.iter().for_each(|network| collect_interfaces(network, &mut found));
        Self(found)
    }

    /// What is here and was not there before.
    pub(super) fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// Those whose command line or control group has the tag, but the daemon and its clients.
fn collect_processes(tag: &str, daemon: u32, found: &mut BTreeSet<String>) {
    let text =
        |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    for entry in fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let path = entry.path();
        let told = [text(&path.join("cmdline")), text(&path.join("cgroup"))].concat();
        if pid != daemon && told.contains(tag) {
            found.insert(format!("process {pid} {}", text(&path.join("comm")).trim()));
        }
    }
}

fn collect_mounts(containerd: &Containerd, found: &mut BTreeSet<String>) {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let folder = containerd.folder().display().to_string();
    let named = |line: &&str| line.contains(&folder) || line.contains(containerd.namespace());
    found.extend(text.lines().filter(named).map(|line| format!("mount {line}")));
}

/// In every hierarchy.
fn collect_groups(folder: &Path, tag: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            if path.to_string_lossy().contains(tag) {
                found.insert(format!("control group {}", path.display()));
            }
            collect_groups(&path, tag, found);
        }
    }
}

fn collect_files(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        found.insert(format!("file {}", path.display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_files(&path, found);
        }
    }
}

/// Taps and others, and what redirects their frames.
fn collect_interfaces(network: &str, found: &mut BTreeSet<String>) {
    let links = process::output(Command::new("ip").args(["-n", network, "-o", "link"]));
    let names = links.unwrap_or_default();
    let names = names.lines().filter_map(|line| line.split(": ").nth(1));
    found.extend(names.map(|name| format!("interface {name} of {network}")));
    let queues = process::output(Command::new("tc").args(["-n", network, "qdisc", "show"]));
    let queues = queues.unwrap_or_default();
    found.extend(queues.lines().map(|line| format!("{line} of {network}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_left() {
        let set = |words: &[&str]| Leftovers(words.iter().map(|&word| word.to_owned()).collect());
        let before = set(&["file /run/a", "process 7 sleep"]);
        assert_eq!(set(&["file /run/a", "file /run/b"]).since(&before), ["file /run/b"]);
    }

    #[test]
    fn files_are_found_below_folders() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/b"), "").unwrap();
        let mut found = BTreeSet::new();
        collect_files(folder.path(), &mut found);
        let path = folder.path().display();
        assert_eq!(found, [format!("file {path}/a"), format!("file {path}/a/b")].into());
    }
}
