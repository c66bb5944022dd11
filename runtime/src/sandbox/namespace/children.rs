//! The children of this process: which of them have come since a moment, and their ends.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::sys;

/// The children that there are now, by number.
pub(super) fn own() -> HashSet<i32> {
    let own = std::process::id();
    let Ok(processes) = fs::read_dir("/proc") else { return HashSet::new() };
    if let Ok(list) = fs::read_to_string(format!("/proc/self/task/{own}/children")) {
        return list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    }
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| parent_of(*pid) == Some(own))
        .collect()
}

fn parent_of(pid: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Kills and reaps every child that is not among those.
pub(super) fn kill_new(before: &HashSet<i32>, deadline: Instant) {
    loop {
        let new: Vec<i32> = own().difference(before).copied().collect();
        if new.is_empty() || Instant::now() >= deadline {
            return;
        }
        for pid in new {
            let _ = sys::kill(pid, libc::SIGKILL);
            reap(pid, deadline);
        }
    }
}

/// Waits for the end of every child that is not among those but for one that stays.
pub(super) fn reap_new(before: &HashSet<i32>, stays: i32, deadline: Instant) {
    let new = own().difference(before).copied().filter(|pid| *pid != stays).collect::<Vec<_>>();
    new.into_iter().for_each(|pid| reap(pid, deadline));
}

/// Waits for a child's end, if it is a child.
pub(super) fn reap(pid: i32, deadline: Instant) {
    while let Ok(WaitStatus::StillAlive) = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
        if Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
