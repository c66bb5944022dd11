//! Processes that were started earlier, by their number and their moment of birth: a number alone
//! is used again by the kernel, and a signal to a stranger is worse than none.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions};
use serde::{Deserialize, Serialize};

/// One process of the host, for as long as the machine is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its number in the runtime's own pid namespace.
    pub pid: i32,
    /// When it was started, in clock ticks since the machine's boot (field 22 of
    /// `/proc/<pid>/stat`).
    pub start_ticks: u64,
}

impl ProcessIdentity {
    /// The identity of a process that exists now.
    ///
    /// # Errors
    /// When there is no such process, or `/proc` is not the kernel's.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_ticks =
            parse_stat(&stat).map(|(_, ticks)| ticks).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, start_ticks })
    }

    /// Whether this very process still runs: a zombie does not. Where that cannot be found out, it
    /// is taken for alive: nothing of a container is forgotten for want of a descriptor.
    ///
    /// One that is ending is waited for, for a moment: its files are closed before it is a zombie, and
    /// who has read its output to the end is not to find it running.
    #[must_use]
    pub fn is_alive(self) -> bool {
        let until = Instant::now() + ENDING;
        while self.look().unwrap_or(true) {
            if !self.is_ending() || Instant::now() > until {
                return true;
            }
            thread::sleep(PAUSE);
        }
        false
    }

    fn is_ending(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        flags_in(&stat).is_some_and(|flags| flags & EXITING != 0)
    }

    /// A descriptor of exactly this process, if it still runs.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let pid = Pid::from_raw(self.pid).ok_or(io::ErrorKind::InvalidInput)?;
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            // The look comes after: from here on the number cannot change its owner unnoticed.
            Ok(pidfd) => Ok(self.look()?.then_some(pidfd)),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets its OOM score adjustment, if it still runs.
    ///
    /// # Errors
    /// When the caller may not: to lower one takes `CAP_SYS_RESOURCE`.
    pub fn set_oom_score_adj(self, score: i32) -> io::Result<()> {
        let set = || -> io::Result<()> {
            let path = format!("/proc/{}/oom_score_adj", self.pid);
            // Opened before the look: it stays this process's, whoever gets its number.
            let mut file = OpenOptions::new().write(true).open(path)?;
            if self.look()? { file.write_all(score.to_string().as_bytes()) } else { Ok(()) }
        };
        set().or_else(|error| if is_absence(&error) { Ok(()) } else { Err(error) })
    }

    fn look(self) -> io::Result<bool> {
        match fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            Ok(stat) => Ok(parse_stat(&stat).is_some_and(|(state, ticks)| {
                ticks == self.start_ticks && !matches!(state, 'Z' | 'X' | 'x')
            })),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The caller's own OOM score adjustment, which its children inherit.
#[must_use]
pub fn own_oom_score_adj() -> i32 {
    let text = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

/// Taking a container's mounts apart takes a process some milliseconds.
const ENDING: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(1);

/// `PF_EXITING` of the kernel's flags of a process.
const EXITING: u64 = 0x4;

/// The ninth field of `/proc/PID/stat`; the name before it may have anything in it.
fn flags_in(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(6)?.parse().ok()
}

/// A process that ends while its file is read is as good as one without a file.
fn is_absence(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessEnd {
    /// By itself, with this code.
    Exited(u8),
    /// By this signal.
    Signaled(i32),
}

impl ProcessEnd {
    /// As a shell has it: the code, or 128 and the signal.
    #[must_use]
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

/// A descriptor that is readable once a process has ended.
///
/// # Errors
/// When there is no such process.
pub fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Waits for the end of a process, for so long; whether it has come. A signal that interrupts the wait is
/// no reason to give it up. A time beyond what a clock can tell is for ever.
///
/// # Errors
/// When the kernel refuses.
pub fn ends_within(process: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let deadline = Instant::now().checked_add(timeout);
    loop {
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        let wait = left.and_then(|left| Timespec::try_from(left).ok());
        let mut polled = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
        match poll(&mut polled, wait.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for a child, and kills it when its time is over: `None`.
///
/// # Errors
/// When the kernel refuses.
pub fn wait_within(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let ended = open_pidfd(child.id().cast_signed())?;
    if ends_within(ended.as_fd(), limit)? {
        return child.wait().map(Some);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// Waits for a child and reaps it.
///
/// # Errors
/// When it is not this process's child.
pub fn reap(pid: i32) -> io::Result<ProcessEnd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    loop {
        let status = match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => status,
            Ok(None) | Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if let Some(code) = status.exit_status() {
            return Ok(ProcessEnd::Exited(u8::try_from(code).unwrap_or(u8::MAX)));
        }
        if let Some(signal) = status.terminating_signal() {
            return Ok(ProcessEnd::Signaled(signal));
        }
    }
}

/// State and start time. The command name in parentheses may hold anything, so that fields are
/// counted from its last parenthesis.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let ticks = fields.nth(18)?.parse().ok()?;
    Some((state, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_the_ninth_field_whatever_the_name() {
        assert_eq!(flags_in("7 (a) b) R 1 7 7 0 -1 4194308 5"), Some(4_194_308));
        assert_eq!(flags_in("7 (a"), None);
    }

    #[test]
    fn this_process_is_alive_and_its_predecessor_is_not() {
        let own = ProcessIdentity::of(std::process::id().cast_signed()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessIdentity { start_ticks: own.start_ticks + 1, ..own }.is_alive());
    }

    #[test]
    fn a_signal_does_not_end_the_wait_for_a_process() {
        let mut child = std::process::Command::new("sleep").arg("0.5").spawn().unwrap();
        let pidfd = open_pidfd(child.id().cast_signed()).unwrap();
        // A handler, so that the signal interrupts what this thread waits for.
        signal_hook::flag::register(libc::SIGUSR2, std::sync::Arc::default()).unwrap();
        let waiter = nix::sys::pthread::pthread_self();
        thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..5 {
                    thread::sleep(Duration::from_millis(20));
                    nix::sys::pthread::pthread_kill(waiter, nix::sys::signal::SIGUSR2).unwrap();
                }
            });
            assert!(ends_within(pidfd.as_fd(), Duration::from_secs(20)).unwrap());
        });
        child.wait().unwrap();
    }

    #[test]
    fn a_child_that_takes_too_long_is_killed() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(wait_within(&mut child, Duration::from_millis(10)).unwrap().is_none());
        for limit in [Duration::from_secs(60), Duration::MAX] {
            let mut child = std::process::Command::new("true").spawn().unwrap();
            assert!(wait_within(&mut child, limit).unwrap().unwrap().success());
        }
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "reaped by number")]
    fn a_child_is_reaped_with_its_code_or_signal() {
        let end = |script: &str| {
            let child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
            let pid = child.id().cast_signed();
            open_pidfd(pid).unwrap();
            reap(pid).unwrap()
        };
        assert_eq!(end("exit 3"), ProcessEnd::Exited(3));
        assert_eq!(end("kill -9 $$"), ProcessEnd::Signaled(9));
        assert_eq!(ProcessEnd::Signaled(9).shell_code(), 137);
    }

    #[test]
    fn a_command_name_may_hold_parentheses_and_spaces() {
        let stat = "7 (a) Z 1) R 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0";
        assert_eq!(parse_stat(stat), Some(('R', 4242)));
    }
}
