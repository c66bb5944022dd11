//! Processes that were started earlier, by their number and their moment of birth: a number alone
//! is used again by the kernel, and a signal to a stranger is worse than none.

use std::fs;
use std::io;

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

    /// Whether this very process still runs: a zombie does not.
    #[must_use]
    pub fn is_alive(self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok().is_some_and(|stat| {
            parse_stat(&stat).is_some_and(|(state, ticks)| {
                ticks == self.start_ticks && !matches!(state, 'Z' | 'X' | 'x')
            })
        })
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
    fn this_process_is_alive_and_its_predecessor_is_not() {
        let own = ProcessIdentity::of(std::process::id().cast_signed()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessIdentity { start_ticks: own.start_ticks + 1, ..own }.is_alive());
    }

    #[test]
    fn a_command_name_may_hold_parentheses_and_spaces() {
        let stat = "7 (a) Z 1) R 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0";
        assert_eq!(parse_stat(stat), Some(('R', 4242)));
    }
}
