//! One look at the machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cofferdam_protocol::id::ContainerId;
use cofferdam_protocol::monitor_metrics::MonitorMetrics;

use crate::figures::{self, Counts};
use crate::kind::SandboxKind;
use crate::sandbox::microvm;
use crate::state::status::Status;
use crate::state::store::{Entry, Store};

/// How long the monitors that are asked together have. Three orders of magnitude more than one takes.
const PATIENCE: Duration = Duration::from_secs(2);
/// Each one that is asked is a descriptor, of which a process has 1024.
const ASKED_TOGETHER: usize = 256;
/// Nor does a look take longer than Prometheus waits, which is 10 s if nobody said otherwise.
const ASKED: usize = 4 * ASKED_TOGETHER;

/// Where engines have their containers' state: folders of folders, one for each namespace. With
/// containerd's own shim the folder is named after runc, whichever runtime it runs.
const OF_ENGINES: [&str; 2] = ["/run/containerd/cofferdam", "/run/containerd/runc"];
/// Docker's are further below, in a folder for each runtime.
const OF_DOCKER: &str = "/run/docker";
const DOCKERS_PREFIX: &str = "runtime-";

/// The folders of containers that are looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    named: Vec<PathBuf>,
    of_engines: bool,
}

impl Roots {
    /// These alone.
    #[must_use]
    pub const fn named(named: Vec<PathBuf>) -> Self {
        Self { named, of_engines: false }
    }

    /// These, and those of the engines that there are when one looks.
    #[must_use]
    pub const fn with_engines(named: Vec<PathBuf>) -> Self {
        Self { named, of_engines: true }
    }

    /// The folders that are there now, none of them twice.
    fn now(&self) -> BTreeSet<PathBuf> {
        let mut all = self.named.clone();
        if self.of_engines {
            all.extend(OF_ENGINES.iter().flat_map(|folder| below(Path::new(folder))));
            let of_docker = below(Path::new(OF_DOCKER)).into_iter().filter(|folder| {
                let name = folder.file_name().unwrap_or_default();
                name.to_string_lossy().starts_with(DOCKERS_PREFIX)
            });
            all.extend(of_docker.flat_map(|folder| below(&folder)));
        }
        all.into_iter().filter_map(|folder| fs::canonicalize(folder).ok()).collect()
    }
}

fn below(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Every container.
    pub containers: Vec<Container>,
    /// The monitors that answered.
    pub monitors: Vec<Monitor>,
    /// How many of the microVMs' monitors did not: they hang, have just gone, or are of another
    /// version.
    pub monitors_silent: usize,
    /// How many there are beyond those that are asked.
    pub monitors_not_asked: usize,
    /// Folders that cannot be read, and the file of what was noted if it cannot.
    pub unreadable: usize,
    /// What was noted.
    pub counts: Counts,
}

/// A container, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container {
    /// What it runs in.
    pub isolation: SandboxKind,
    /// Where it is in its life.
    pub status: Status,
    /// It is in another container's microVM.
    pub is_member: bool,
}

/// A monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// The folder of containers that its own is in.
    pub root: PathBuf,
    /// The container that its microVM was made for.
    pub sandbox: ContainerId,
    /// What it counts.
    pub metrics: MonitorMetrics,
}

impl Snapshot {
    /// Looks.
    #[must_use]
    pub fn take(roots: &Roots) -> Self {
        let mut snapshot = Self::default();
        let mut sandboxes = Vec::new();
        for root in roots.now() {
            match Store::new(root.clone()).list() {
                Ok(entries) => sandboxes.extend(snapshot.count(&root, entries)),
                Err(_) => snapshot.unreadable += 1,
            }
        }
        snapshot.ask(sandboxes);
        match figures::read() {
            Ok(counts) => snapshot.counts = counts,
            Err(_) => snapshot.unreadable += 1,
        }
        snapshot
    }

    /// Counts the containers; those whose monitors can be asked.
    fn count(&mut self, root: &Path, entries: Vec<Entry>) -> Vec<(PathBuf, Entry)> {
        let mut sandboxes = Vec::new();
        for entry in entries {
            let is_member = entry.record.notes.contains_key(microvm::POD_NOTE);
            let (isolation, status) = (entry.record.isolation, entry.record.status());
            self.containers.push(Container { isolation, status, is_member });
            let is_up = matches!(status, Status::Created | Status::Running | Status::Paused);
            if isolation == SandboxKind::Microvm && is_up && !is_member {
                sandboxes.push((root.to_owned(), entry));
            }
        }
        sandboxes
    }

    fn ask(&mut self, mut sandboxes: Vec<(PathBuf, Entry)>) {
        self.monitors_not_asked = sandboxes.len().saturating_sub(ASKED);
        sandboxes.truncate(ASKED);
        for together in sandboxes.chunks(ASKED_TOGETHER) {
            let folders: Vec<_> = together.iter().map(|(_, entry)| entry.folder.clone()).collect();
            let answers = microvm::metrics(&folders, Instant::now() + PATIENCE);
            for ((root, entry), answer) in together.iter().zip(answers) {
                match answer {
                    Ok(metrics) => self.monitors.push(Monitor {
                        root: root.clone(),
                        sandbox: entry.record.id.clone(),
                        metrics,
                    }),
                    Err(_) => self.monitors_silent += 1,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_named_in_two_ways_is_looked_into_once() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let roots = Roots::named(vec![real.clone(), link, folder.path().join("none")]);
        assert_eq!(roots.now(), BTreeSet::from([fs::canonicalize(real).unwrap()]));
    }

    #[test]
    fn what_is_in_a_folder_and_no_container_of_ours_is_not_counted() {
        let folder = tempfile::tempdir().unwrap();
        let of_runc = folder.path().join("abc");
        fs::create_dir(&of_runc).unwrap();
        fs::write(of_runc.join("state.json"), r#"{"id":"abc","init_process_pid":1}"#).unwrap();
        let snapshot = Snapshot::take(&Roots::named(vec![folder.path().to_owned()]));
        assert!(snapshot.containers.is_empty());
        assert_eq!(snapshot.monitors_silent, 0);
    }
}
