//! What a killed `create` leaves running: the processes that its helper has made.
//!
//! The helper itself dies with its caller (`PR_SET_PDEATHSIG`, [`super::entry`]), but that is not
//! inherited: a process between it and the container's first one goes on making control groups and
//! a container, which then waits for a caller that is gone. They are known by the helper's command line,
//! which names the caller, until the container's own program is executed: only `start` does that.
//!
//! Hostile: nothing. Before its start nothing of the container's runs.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::helper;
use super::sys;
use crate::host::process::ProcessIdentity;

/// Between two looks: one that is being killed may just have made another.
const PAUSE: Duration = Duration::from_millis(2);

/// Kills them until there are none. A caller that lives has not left any.
pub(super) fn kill(caller: ProcessIdentity, deadline: Instant) {
    // Where its number is another's by now, they may be that one's.
    let is_reused = ProcessIdentity::of(caller.pid).is_ok_and(|now| now != caller);
    if caller.is_alive() || is_reused {
        return;
    }
    while Instant::now() < deadline {
        let left = helpers_of(caller.pid);
        if left.is_empty() {
            return;
        }
        for pid in left {
            // It may be gone by now.
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        thread::sleep(PAUSE);
    }
}

/// One that has been killed has no command line any more.
fn helpers_of(caller: i32) -> Vec<i32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        is_helper_of(&words, caller)
    })
    .collect()
}

/// `cofferdam namespace-init JOB REPORTS CALLER`, each with a zero behind it.
fn is_helper_of(command_line: &[u8], caller: i32) -> bool {
    let words: Vec<&[u8]> = command_line.split(|&byte| byte == 0).collect();
    let caller = caller.to_string();
    matches!(words[..], [_, argument, _, _, of, b""]
        if argument == helper::ARGUMENT.as_bytes() && of == caller.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &str) -> Vec<u8> {
        words.split(' ').flat_map(|word| word.bytes().chain([0])).collect()
    }

    #[test]
    fn a_helper_is_known_by_its_caller_and_nothing_else_is_one() {
        assert!(is_helper_of(&line("cofferdam namespace-init 12 11 150"), 150));
        assert!(!is_helper_of(&line("cofferdam namespace-init 12 11 150"), 15));
        assert!(!is_helper_of(&line("cofferdam create 12 11 150"), 150));
        assert!(!is_helper_of(&line("cofferdam namespace-init 12 11 150 more"), 150));
        assert!(!is_helper_of(b"", 150));
    }

    #[test]
    fn a_caller_that_lives_has_left_nothing() {
        let own = ProcessIdentity::of(std::process::id().cast_signed()).unwrap();
        let begun = Instant::now();
        kill(own, begun + Duration::from_secs(60));
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}
