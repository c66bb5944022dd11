//! What `/proc` says of a container's processes.
//!
//! Hostile: command lines, which are the processes' own memory. Bounded in length and number.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;

use cofferdam_protocol::id::ContainerId;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use cofferdam_protocol::agent::ProcessEntry;

use crate::sys;

/// A list for people; and it must fit into an RPC frame of 4 MiB with its command lines.
const MAX_ENTRIES: usize = 4096;
/// Of a command line.
const MAX_COMMAND_BYTES: u64 = 512;
/// `/proc` counts time in hundredths of a second, whatever the kernel's own tick.
const TICK_MS: u64 = 10;

/// Sends a signal to a process if it is in the container. False: it had ended.
pub(crate) fn signal_member(pid: u32, container: &ContainerId, signal: u32) -> io::Result<bool> {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(false) };
    let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(false),
        other => other?,
    };
    // Looked at after it was opened: the number may have gone to another process before.
    let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if !is_within(&group, container.as_str()) {
        return Ok(false);
    }
    sys::send_signal(pidfd.as_fd(), signal)
}

fn is_within(cgroup_file: &str, name: &str) -> bool {
    let path = cgroup_file.lines().find_map(|line| line.strip_prefix("0::/"));
    path.is_some_and(|path| path.split('/').next() == Some(name))
}

/// A process's pid in the innermost pid namespace that it is in.
pub(crate) fn inner_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let pids = field(&status, "NSpid:")?;
    pids.split_whitespace().next_back()?.parse().ok()
}

/// What is known of each process. One that ended meanwhile is left out.
pub(crate) fn entries(pids: &[u32]) -> Vec<ProcessEntry> {
    let boot_ms = boot_time_ms();
    pids.iter().take(MAX_ENTRIES).filter_map(|&pid| entry(pid, boot_ms)).collect()
}

fn boot_time_ms() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let seconds = field(&stat, "btime ").and_then(|text| text.trim().parse::<u64>().ok());
    seconds.unwrap_or(0).saturating_mul(1000)
}

fn entry(pid: u32, boot_ms: u64) -> Option<ProcessEntry> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let stat = Stat::parse(&stat)?;
    let uid = field(&status, "Uid:").and_then(|uids| uids.split_whitespace().nth(1)?.parse().ok());
    Some(ProcessEntry {
        pid,
        ppid: stat.parent,
        uid: uid.unwrap_or(0),
        cpu_ms: stat.cpu_ticks.saturating_mul(TICK_MS),
        started_ms: boot_ms.saturating_add(stat.start_ticks.saturating_mul(TICK_MS)),
        terminal: terminal_name(stat.terminal),
        command: command(pid).unwrap_or_else(|| format!("[{}]", stat.name)),
        ..ProcessEntry::default()
    })
}

fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

/// The arguments with spaces between; none for a process without (a zombie).
fn command(pid: u32) -> Option<String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(format!("/proc/{pid}/cmdline")).ok()?;
    file.take(MAX_COMMAND_BYTES).read_to_end(&mut bytes).ok()?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    (!text.is_empty()).then_some(text)
}

/// What of `/proc/PID/stat` is needed.
#[derive(Debug, PartialEq, Eq)]
struct Stat<'t> {
    name: &'t str,
    parent: u32,
    terminal: u32,
    cpu_ticks: u64,
    start_ticks: u64,
}

impl<'t> Stat<'t> {
    /// The name stands in brackets and may hold anything, brackets too: its end is the last one.
    fn parse(text: &'t str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        // From field 3 on, counted as proc(5) does.
        let fields: Vec<&str> = after.split_whitespace().collect();
        let number = |index: usize| fields.get(index - 3)?.parse::<i64>().ok();
        let positive = |index| number(index).and_then(|value| u64::try_from(value).ok());
        Some(Self {
            name,
            parent: u32::try_from(number(4)?).ok()?,
            terminal: u32::try_from(number(7)?.max(0)).ok()?,
            cpu_ticks: positive(14)?.saturating_add(positive(15)?),
            start_ticks: positive(22)?,
        })
    }
}

/// A terminal's device number as `ps` names it.
fn terminal_name(device: u32) -> String {
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    match major {
        // Unix98 terminals have eight majors of 256 each.
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_with_brackets_is_read() {
        let text = "7 (a) b) S 1 7 7 34816 -1 0 0 0 0 0 3 4 0 0 20 0 1 0 99 0";
        let stat = Stat::parse(text).unwrap();
        let expected =
            Stat { name: "a) b", parent: 1, terminal: 34816, cpu_ticks: 7, start_ticks: 99 };
        assert_eq!(stat, expected);
    }

    #[test]
    fn terminals_have_their_names() {
        assert_eq!(terminal_name(34816), "pts/0");
        assert_eq!(terminal_name(34823), "pts/7");
        assert_eq!(terminal_name(0), "?");
    }

    #[test]
    fn this_process_is_listed() {
        let listed = entries(&[std::process::id()]);
        assert_eq!(listed.len(), 1);
        assert!(listed[0].command.contains("cofferdam"), "{listed:?}");
    }

    #[test]
    fn membership_is_by_whole_names() {
        assert!(is_within("0::/web\n", "web"));
        assert!(is_within("0::/web/inner\n", "web"));
        assert!(!is_within("0::/web2\n", "web"));
        assert!(!is_within("", "web"));
    }

    proptest! {
        #[test]
        fn any_stat_is_taken(text in any::<String>()) {
            let _ = Stat::parse(&text);
        }
    }
}
