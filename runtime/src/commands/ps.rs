//! `ps`: the processes inside a container.
//!
//! In namespaces they are processes of the host, and the host's ps(1) knows how to show them, as
//! with runc. Those of a microVM are the guest's: the agent lists them, and the columns are those
//! of `ps -ef`.
//!
//! The list in JSON is for engines, which take its numbers for the host's: `docker top` has ps(1) show
//! these. Of a microVM it is the one process of the host's that the container is.

use std::io;
use std::process::Command;

use nix::unistd::{Uid, User};
use serde::Serialize;

use crate::cli::{OutputFormat, PsArgs};
use crate::commands::{Context, IdError, parse_id, print};
use crate::kind::SandboxKind;
use crate::sandbox;
use crate::sandbox::request::ProcessRow;
use crate::state::status::Status;
use crate::state::store::StoreError;

/// Why the processes are not shown.
#[derive(Debug, thiserror::Error)]
pub enum PsError {
    /// The id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The state folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] sandbox::ProcessesError),
    /// ps(1) is for the host's processes.
    #[error("Options for ps(1) are for isolation namespace: a microVM's processes are the guest's")]
    Options,
    /// ps(1) cannot be run.
    #[error("Cannot run ps(1)")]
    Run(#[source] io::Error),
    /// ps(1) did not like its options.
    #[error("ps(1) failed: {message}")]
    Failed {
        /// Its own words.
        message: String,
    },
    /// ps(1) was asked not to print what its lines are about.
    #[error("Couldn't find PID field in ps output")]
    NoPidColumn,
    /// The list is no JSON.
    #[error("Cannot write the list as JSON")]
    Encode(#[from] serde_json::Error),
    /// Standard output refuses.
    #[error("Cannot write the output")]
    Output(#[source] io::Error),
}

pub(super) fn run(context: &Context, args: &PsArgs) -> Result<(), PsError> {
    let entry = context.store.open(&parse_id(&args.target.id)?)?;
    let kind = entry.record.isolation;
    let rows = match (entry.record.status(), args.format, kind) {
        (Status::Stopped, ..) => Vec::new(),
        (_, OutputFormat::Json, SandboxKind::Microvm) => {
            let process = entry.record.process.map(|process| process.pid);
            return print_numbers(process.iter().copied());
        }
        _ => sandbox::processes(kind, &entry.sandbox())?,
    };
    let text = match (args.format, kind) {
        (OutputFormat::Json, _) => return print_numbers(rows.iter().map(|row| row.pid)),
        (OutputFormat::Table, SandboxKind::Namespace) => host_table(&rows, &args.options)?,
        (OutputFormat::Table, SandboxKind::Microvm) if args.options.is_empty() => {
            guest_table(&rows, name_of)
        }
        (OutputFormat::Table, SandboxKind::Microvm) => return Err(PsError::Options),
    };
    print(&text).map_err(PsError::Output)
}

fn print_numbers(pids: impl Iterator<Item = impl Serialize>) -> Result<(), PsError> {
    let list = serde_json::to_string(&pids.collect::<Vec<_>>())?;
    print(&format!("{list}\n")).map_err(PsError::Output)
}

fn host_table(rows: &[ProcessRow], options: &[String]) -> Result<String, PsError> {
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef")
    } else {
        command.args(options)
    };
    let output = command.output().map_err(PsError::Run)?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(PsError::Failed { message });
    }
    keep_processes(&String::from_utf8_lossy(&output.stdout), rows)
}

/// Of the output of ps(1) the header, and the lines of these processes.
fn keep_processes(output: &str, rows: &[ProcessRow]) -> Result<String, PsError> {
    let mut lines = output.lines();
    let header = lines.next().unwrap_or_default();
    let column = header.split_whitespace().position(|title| title == "PID");
    let column = column.ok_or(PsError::NoPidColumn)?;
    let ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| rows.iter().any(|row| row.pid == pid))
    };
    let kept = std::iter::once(header).chain(lines.filter(ours));
    Ok(kept.map(|line| format!("{line}\n")).collect())
}

/// What this host calls a user, as ps(1) does for processes of its own: eight characters at most.
fn name_of(uid: u32) -> String {
    const WIDTH: usize = 8;
    let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    match known.map(|user| user.name) {
        Some(name) if name.chars().count() > WIDTH => {
            name.chars().take(WIDTH - 1).chain(['+']).collect()
        }
        Some(name) => name,
        None => uid.to_string(),
    }
}

/// The columns of `ps -ef`; times are UTC.
fn guest_table(rows: &[ProcessRow], name_of: impl Fn(u32) -> String) -> String {
    let mut text = "UID        PID  PPID  C STIME TTY          TIME CMD\n".to_owned();
    for row in rows {
        let started = row.started_ms / 60_000;
        let seconds = row.cpu_ms / 1000;
        text.push_str(&format!(
            "{:<8}{:>6}{:>6}{:>3} {:02}:{:02} {:<8} {:02}:{:02}:{:02} {}\n",
            name_of(row.uid),
            row.pid,
            row.ppid,
            0,
            started / 60 % 24,
            started % 60,
            row.terminal,
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            row.command,
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pid: u32) -> ProcessRow {
        ProcessRow {
            pid,
            ppid: 1,
            uid: 0,
            cpu_ms: 61_500,
            started_ms: 1_795_233_407_000,
            terminal: "?".into(),
            command: "sleep 300".into(),
        }
    }

    #[test]
    fn lines_of_other_processes_are_left_out() {
        let output = "UID PID PPID CMD\nroot 7 1 sleep 8\nroot 8 7 sh\n";
        let kept = keep_processes(output, &[row(8)]).unwrap();
        assert_eq!(kept, "UID PID PPID CMD\nroot 8 7 sh\n");
        assert!(matches!(keep_processes("CMD\nsh\n", &[]), Err(PsError::NoPidColumn)));
    }

    #[test]
    fn users_have_the_names_that_this_host_gives_them() {
        assert_eq!(name_of(0), "root");
        assert_eq!(name_of(3_999_999_999), "3999999999");
    }

    #[test]
    fn a_guests_table_has_the_columns_of_ps_ef() {
        let table = guest_table(&[row(7)], |uid| format!("user{uid}"));
        insta::assert_snapshot!(table, @r"
        UID        PID  PPID  C STIME TTY          TIME CMD
        user0        7     1  0 03:56 ?        00:01:01 sleep 300
        ");
    }
}
