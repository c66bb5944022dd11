//! What a container could leave on the machine: counted before, compared after.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use crate::Runtime;

/// What ends asynchronously (a killed monitor's memory and mounts) has this long to go.
const GRACE: Duration = Duration::from_secs(20);

/// Mounts, cgroups and processes of this project on the machine, and state below one root.
#[derive(Debug, PartialEq, Eq)]
pub struct Leftovers {
    processes: BTreeSet<String>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    state: BTreeSet<String>,
}

impl Leftovers {
    /// What is there now.
    #[must_use]
    pub fn before(runtime: &Runtime) -> Self {
        Self {
            processes: processes(),
            mounts: mounts(),
            cgroups: cgroups(),
            state: names(runtime.root()),
        }
    }

    /// Nothing more is there than was before.
    #[track_caller]
    pub fn none_since(&self, runtime: &Runtime) {
        let end = Instant::now() + GRACE;
        loop {
            let now = Self::before(runtime);
            if now == *self {
                return;
            }
            assert!(Instant::now() < end, "left behind: {:#?}\nbefore: {self:#?}", now);
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Processes that are ours by name, or that run inside one of our bundles.
fn processes() -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeSet::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter_map(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            let root = fs::read_link(entry.path().join("root")).ok()?;
            let ours = name.starts_with("cofferdam") && !name.starts_with("cofferdam-e2e");
            let inside = root.to_string_lossy().contains("cofferdam-bundle-");
            (ours || inside).then(|| format!("{} {}", entry.file_name().display(), name.trim()))
        })
        .collect()
}

fn mounts() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let target = |line: &str| line.split(' ').nth(4).map(str::to_owned);
    text.lines().filter_map(target).filter(|path| path.contains("cofferdam")).collect()
}

/// cgroups named after a test's container, in every hierarchy.
fn cgroups() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let _ = collect_cgroups(Path::new("/sys/fs/cgroup"), 0, &mut found);
    found
}

fn collect_cgroups(folder: &Path, depth: u32, found: &mut BTreeSet<String>) -> io::Result<()> {
    if depth > 4 {
        return Ok(());
    }
    for entry in fs::read_dir(folder)?.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains("e2e-") || name.contains("cofferdam") {
                found.insert(entry.path().display().to_string());
            }
            let _ = collect_cgroups(&entry.path(), depth + 1, found);
        }
    }
    Ok(())
}

fn names(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeSet::new() };
    entries.filter_map(Result::ok).map(|entry| entry.file_name().display().to_string()).collect()
}
