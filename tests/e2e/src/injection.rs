//! Faults in the system calls of a command, put there from outside by `strace`: what is tested is
//! the program that users run, not one with hooks for tests in it.
//!
//! A [`Step`] is the nth call of one kind in a process. Each process of the command that comes so
//! far meets the fault, those too that it starts: a container that is made by several processes can
//! fail in each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Calls that cannot fail, or whose failure says nothing: a `close` that fails closes all the same,
/// but not under `strace`; a sleep can be interrupted and nothing else, which libraries rely on; and
/// without its first `execve` there is no command.
const EXEMPT: &[&str] = &[
    "clock_nanosleep",
    "close",
    "close_range",
    "exit",
    "exit_group",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getppid",
    "gettid",
    "getuid",
    "restart_syscall",
    "rt_sigreturn",
    "umask",
    "vfork",
    "uname",
];

/// What kernels answer, in turn, so that each step meets several over a long run.
const ERRORS: &[&str] = &["ENOMEM", "EIO", "EINTR", "EMFILE", "EPERM", "ENOSPC", "EAGAIN"];

/// The nth call of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    call: String,
    /// Counted from 1, in each process.
    ordinal: usize,
}

/// What happens at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call is not made and answers this.
    Error(&'static str),
    /// The process is killed.
    Killed,
}

impl Fault {
    /// The faults of a run's nth visit to a step: errors in turn, and each eighth time death.
    #[must_use]
    pub fn of_round(round: usize) -> Self {
        ERRORS.get(round % (ERRORS.len() + 1)).map_or(Self::Killed, |error| Self::Error(error))
    }
}

/// A fault at a step.
#[derive(Clone, Debug)]
pub struct Injection {
    /// Where.
    pub step: Step,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step: Step { call, ordinal }, fault } = self;
        match fault {
            Fault::Error(error) => write!(f, "{error} of {call} number {ordinal}"),
            Fault::Killed => write!(f, "SIGKILL in {call} number {ordinal}"),
        }
    }
}

impl Injection {
    /// The command, with the fault in it.
    #[must_use]
    pub fn applied_to(&self, command: &Command) -> Command {
        let Step { call, ordinal } = &self.step;
        let fault = match self.fault {
            Fault::Error(error) => format!("error={error}"),
            Fault::Killed => "signal=SIGKILL".to_owned(),
        };
        let mut flags = flags(Path::new("/dev/null"), call);
        flags.push(format!("--inject={call}:{fault}:when={ordinal}"));
        under_strace(&flags, command)
    }
}

/// The steps of a command, found by running it.
#[must_use]
pub fn steps_of(command: &Command) -> Vec<Step> {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut traced = under_strace(&flags(log.path(), "all"), command);
    let status = traced.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?} fails without a fault");
    steps_in(&fs::read_to_string(log.path()).unwrap())
}

/// Each kind's calls, as many as the process with the most of them made.
fn steps_in(log: &str) -> Vec<Step> {
    let mut calls: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in log.lines() {
        if let Some((process, call)) = call_in(line) {
            *calls.entry((process, call)).or_default() += 1;
        }
    }
    let steps = calls.into_iter().filter(|((_, call), _)| !EXEMPT.contains(call)).flat_map(
        |((_, call), count)| (1..=count).map(|ordinal| Step { call: call.to_owned(), ordinal }),
    );
    steps.collect::<BTreeSet<_>>().into_iter().collect()
}

/// `17 openat(…` is a call; `17 <... openat resumed>` is the rest of one, `17 +++ …` an end.
fn call_in(line: &str) -> Option<(&str, &str)> {
    let (process, rest) = line.split_once(char::is_whitespace)?;
    let (call, _) = rest.trim_start().split_once('(')?;
    call.chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        .then_some((process, call))
}

/// `strace`, which stays behind with what the command leaves running (`-D`) and says nothing.
fn flags(log: &Path, calls: &str) -> Vec<String> {
    let output = format!("--output={}", log.display());
    ["-D", "-f", "-qqq", "--signal=none", "-s0", &output, &format!("--trace={calls}")]
        .map(str::to_owned)
        .to_vec()
}

fn under_strace(flags: &[String], command: &Command) -> Command {
    let mut traced = Command::new("strace");
    traced.args(flags).arg("--").arg(command.get_program()).args(command.get_args());
    traced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_of_two_processes_are_those_of_the_busier_one() {
        let log = "7 openat(AT_FDCWD, \"\"..., O_RDONLY) = 3\n\
                   7 close(3) = 0\n\
                   8 openat(AT_FDCWD, \"\"..., O_RDONLY <unfinished ...>\n\
                   7 +++ exited with 0 +++\n\
                   8 <... openat resumed>) = 3\n\
                   8 openat(AT_FDCWD, \"\"..., O_RDONLY) = 4\n";
        let step = |ordinal| Step { call: "openat".to_owned(), ordinal };
        assert_eq!(steps_in(log), [step(1), step(2)]);
    }
}
