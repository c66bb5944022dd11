//! `kill`, `ps` and `delete`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::cgroup;
use super::children;
use super::freezer;
use super::members;
use super::orphans;
use super::record::Record;
use super::sys;
use super::undo;
use crate::cgroup::systemd::Unit;
use crate::host::process::{self, ProcessIdentity};
use crate::sandbox::request::{KillRequest, ProcessRow, SandboxRef};

/// How long `delete` waits for what it has killed.
const DELETE_DEADLINE: Duration = Duration::from_secs(10);

/// Why a signal was not sent.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// The container's first process is not there.
    #[error("The container does not run")]
    NotRunning,
    /// `create` did not finish, or the state folder was changed.
    #[error("The record of the container cannot be read")]
    Record(#[source] io::Error),
    /// The kernel refused.
    #[error("Cannot send signal {signal}")]
    Signal {
        /// Which.
        signal: i32,
        /// Why not.
        source: io::Error,
    },
}

/// Sends a signal to a container's first process, or to all of its processes.
///
/// # Errors
/// When there is nobody to send it to.
pub fn kill(sandbox: &SandboxRef, request: KillRequest) -> Result<(), KillError> {
    let signal = request.signal;
    let failed = |source| KillError::Signal { signal, source };
    if request.all {
        let record = Record::load(&sandbox.state_folder).map_err(KillError::Record)?;
        members::signal_all(&record, signal).map_err(failed)?;
    } else {
        let process = sandbox.process.ok_or(KillError::NotRunning)?;
        let pidfd = process.open().map_err(failed)?.ok_or(KillError::NotRunning)?;
        match sys::send_signal(pidfd.as_fd(), signal) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(KillError::NotRunning),
            other => other.map_err(failed),
        }?;
    }
    if signal == libc::SIGKILL {
        freezer::let_die(sandbox);
    }
    Ok(())
}

/// Kills a container's first process, and does not wait. One that has ended is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn kill_at_once(sandbox: &SandboxRef) -> Result<(), KillError> {
    match kill(sandbox, KillRequest { signal: libc::SIGKILL, all: false }) {
        Err(KillError::NotRunning) => Ok(()),
        other => other,
    }
}

/// Why the processes are not known.
#[derive(Debug, thiserror::Error)]
pub enum ProcessesError {
    /// `create` did not finish, or the state folder was changed.
    #[error("The record of the container cannot be read")]
    Record(#[source] io::Error),
    /// `/proc` is not the kernel's.
    #[error("Cannot read when the machine was booted")]
    BootTime(#[source] io::Error),
}

/// The container's processes, as the host sees them.
///
/// # Errors
/// When the container's control groups are not known.
pub fn processes(sandbox: &SandboxRef) -> Result<Vec<ProcessRow>, ProcessesError> {
    let record = Record::load(&sandbox.state_folder).map_err(ProcessesError::Record)?;
    let boot_ms = boot_time_ms().map_err(ProcessesError::BootTime)?;
    Ok(members::of(&record).into_iter().filter_map(|pid| row(pid, boot_ms)).collect())
}

fn boot_time_ms() -> io::Result<u64> {
    fs::read_to_string("/proc/stat")?
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok())
        .map(|seconds| seconds * 1000)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// One process, unless it has ended meanwhile.
fn row(pid: i32, boot_ms: u64) -> Option<ProcessRow> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let uid = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&folder).ok()?);
    let command_line = fs::read(folder.join("cmdline")).unwrap_or_default();
    parse_row(pid.cast_unsigned(), uid, &stat, &command_line, boot_ms)
}

fn parse_row(
    pid: u32,
    uid: u32,
    stat: &str,
    command_line: &[u8],
    boot_ms: u64,
) -> Option<ProcessRow> {
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let number = |i: usize| fields.get(i)?.parse::<u64>().ok();
    let command = String::from_utf8_lossy(command_line).trim_end_matches('\0').replace('\0', " ");
    Some(ProcessRow {
        pid,
        ppid: fields.get(1)?.parse().ok()?,
        uid,
        cpu_ms: (number(11)? + number(12)?) * MS_PER_TICK,
        started_ms: boot_ms + number(19)? * MS_PER_TICK,
        terminal: terminal_name(fields.get(4)?.parse().ok()?),
        command: if command.is_empty() { format!("[{name}]") } else { command },
    })
}

/// USER_HZ is 100 on every Linux that this runs on: a part of the system call interface.
const MS_PER_TICK: u64 = 10;

/// The device number as ps names it.
fn terminal_name(device: i64) -> String {
    let device = u64::try_from(device).unwrap_or(0);
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".to_owned(),
    }
}

/// Why something of a container is left.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The state folder was changed, or cannot be read now.
    #[error("The record of the container cannot be read")]
    Record(#[source] io::Error),
    /// Whether it runs is not known.
    #[error("Cannot find out whether process {pid} still runs")]
    Unknown {
        /// The first process.
        pid: i32,
        /// Why not.
        source: io::Error,
    },
    /// The first process was killed and is still there: it is in an uninterruptible wait.
    #[error("Process {0} does not end")]
    Process(i32),
    /// Control groups could not be removed.
    #[error("The container's control groups cannot be removed")]
    Cgroups(#[source] io::Error),
}

/// Takes a container away, whatever is left of it: processes, control groups, files.
///
/// # Errors
/// When something outlived the deadline. A second call goes on where this one stopped.
pub fn delete(sandbox: &SandboxRef) -> Result<(), DeleteError> {
    let deadline = Instant::now() + DELETE_DEADLINE;
    if let Some(process) = sandbox.process {
        end(sandbox, process, deadline)?;
    }
    let record = Record::find(&sandbox.state_folder).map_err(DeleteError::Record)?;
    // Without a record `create` did not get as far as making anything that outlives it.
    let record = record.unwrap_or_default();
    if let Some(maker) = record.maker {
        orphans::kill(maker, deadline);
    }
    if let Some(path) = record.unit {
        cgroup::kill_frozen(&record.cgroups);
        Unit::known(path, sandbox.id.as_str()).stop(&record.cgroups, deadline);
    }
    cgroup::destroy(&record.cgroups, deadline).map_err(DeleteError::Cgroups)?;
    if let Some(mount) = &record.host_mount {
        mount.take_away();
    }
    undo::remove_files(&sandbox.state_folder);
    Ok(())
}

fn end(
    sandbox: &SandboxRef,
    process: ProcessIdentity,
    deadline: Instant,
) -> Result<(), DeleteError> {
    let unknown = |source| DeleteError::Unknown { pid: process.pid, source };
    if let Some(pidfd) = process.open().map_err(unknown)? {
        let _ = sys::send_signal(pidfd.as_fd(), libc::SIGKILL);
        freezer::let_die(sandbox);
        if !wait_for_end(&pidfd, deadline) {
            return Err(DeleteError::Process(process.pid));
        }
    }
    children::reap(process.pid, deadline);
    Ok(())
}

fn wait_for_end(pidfd: &OwnedFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    process::ends_within(pidfd.as_fd(), left).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a) b) S 1 42 42 34816 42 4194560 93 0 0 0 12 34 0 0 20 0 1 0 500 1 2";

    #[test]
    fn a_process_is_read_from_its_stat_line() {
        let row = parse_row(42, 1000, STAT, b"/bin/sh\0-c\0true\0", 1_000_000).unwrap();
        assert_eq!(row.ppid, 1);
        assert_eq!(row.cpu_ms, 460);
        assert_eq!(row.started_ms, 1_005_000);
        assert_eq!(row.terminal, "pts/0");
        assert_eq!(row.command, "/bin/sh -c true");
    }

    #[test]
    fn a_process_without_a_command_line_has_its_name() {
        assert_eq!(parse_row(42, 0, STAT, b"", 0).unwrap().command, "[a) b]");
    }

    #[test]
    fn deleting_what_is_not_there_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let sandbox = SandboxRef {
            id: "gone".parse().unwrap(),
            state_folder: folder.path().to_owned(),
            bundle: "/".into(),
            process: None,
        };
        delete(&sandbox).unwrap();
        delete(&sandbox).unwrap();
    }
}
