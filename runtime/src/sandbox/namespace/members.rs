//! The processes of a container: those in its control groups, or, where it has none, those in the pid
//! namespace of its first process.
//!
//! Hostile: the container. In a pid namespace nothing escapes this: one that it makes itself is below
//! its own, and its processes are counted as well.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use super::cgroup;
use super::record::Record;
use super::sys;

/// A pid namespace has at most 32 above it.
const MOST_LEVELS: usize = 32;

/// Everything that belongs to a container and runs. Each once.
pub(super) fn of(record: &Record) -> Vec<i32> {
    if record.cgroups.is_empty() {
        in_pid_namespace(record)
    } else {
        cgroup::processes(&record.cgroups)
    }
}

/// Sends a signal to all of them.
///
/// # Errors
/// When a process could not be signalled for another reason than that it is gone.
pub(super) fn signal_all(record: &Record, signal: i32) -> io::Result<()> {
    if !record.cgroups.is_empty() {
        return cgroup::signal_all(&record.cgroups, signal);
    }
    for pid in in_pid_namespace(record) {
        match sys::kill(pid, signal) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            other => other?,
        }
    }
    Ok(())
}

fn in_pid_namespace(record: &Record) -> Vec<i32> {
    let Some(init) = record.init.filter(|init| init.is_alive()) else { return Vec::new() };
    let (Ok(theirs), Ok(own)) = (namespace_of(init.pid), namespace_of_self()) else {
        return Vec::new();
    };
    // Shared with the caller: then nothing says which processes are the container's.
    if theirs == own {
        return vec![init.pid];
    }
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let mut pids: Vec<i32> = pids.filter(|pid| is_within(*pid, theirs)).collect();
    pids.sort_unstable();
    pids
}

/// Whether a process is in this pid namespace or in one below it.
fn is_within(pid: i32, wanted: (u64, u64)) -> bool {
    let Ok(mut namespace) = File::open(format!("/proc/{pid}/ns/pid")).map(OwnedFd::from) else {
        return false;
    };
    for _ in 0..MOST_LEVELS {
        match identity(&namespace) {
            Ok(found) if found == wanted => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
        match sys::parent_namespace(namespace.as_fd()) {
            Ok(parent) => namespace = parent,
            Err(_) => return false,
        }
    }
    false
}

fn namespace_of(pid: i32) -> io::Result<(u64, u64)> {
    fs::metadata(format!("/proc/{pid}/ns/pid")).map(|found| (found.dev(), found.ino()))
}

fn namespace_of_self() -> io::Result<(u64, u64)> {
    fs::metadata("/proc/self/ns/pid").map(|found| (found.dev(), found.ino()))
}

fn identity(namespace: &OwnedFd) -> io::Result<(u64, u64)> {
    let found = fs::metadata(format!("/proc/self/fd/{}", namespace.as_raw_fd()))?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::process::ProcessIdentity;

    #[test]
    fn a_process_is_within_its_own_namespace_and_not_within_another() {
        let own = std::process::id().cast_signed();
        assert!(is_within(own, namespace_of_self().unwrap()));
        assert!(!is_within(own, (0, 0)));
    }

    #[test]
    fn of_a_namespace_that_is_the_caller_s_only_the_first_process_is_the_container_s() {
        let own = std::process::id().cast_signed();
        let record = Record { init: ProcessIdentity::of(own).ok(), ..Record::default() };
        assert_eq!(of(&record), [own]);
        assert!(of(&Record::default()).is_empty());
    }
}
