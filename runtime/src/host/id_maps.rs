//! The maps of a new user namespace: which of them a user may write, and writing them.
//!
//! Root writes what it likes. A user writes one line by hand: the own id. For every other id there
//! are `newuidmap` and `newgidmap`, which look into `/etc/subuid` and `/etc/subgid`.
//!
//! What a user writes by hand takes the right to change supplementary groups from the namespace: the
//! kernel demands it, for a group can also forbid.

use std::fs;
use std::io;
use std::process::Command;

use cofferdam_protocol::plan::IdMappingPlan;

use super::user::User;

/// Users or groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Users,
    Groups,
}

/// Why a map could not be written.
#[derive(Debug, thiserror::Error)]
pub enum IdMapError {
    /// The kernel refused.
    #[error("Cannot write {file}")]
    Write {
        /// `uid_map` and so on.
        file: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The program that may write it is not there.
    #[error(
        "{field} has ids that are not this user's own: that takes {program} (Debian's package uidmap)"
    )]
    NoProgram {
        /// Where the ids are asked for.
        field: &'static str,
        /// `newuidmap`.
        program: &'static str,
        /// Why it does not run.
        source: io::Error,
    },
    /// It refused.
    #[error(
        "{program} refuses {field} ({said}): {file} gives this user other ids, or none; \
         `usermod {flag} FIRST-LAST USER` adds some"
    )]
    Refused {
        /// Where the ids are asked for.
        field: &'static str,
        /// `newuidmap`.
        program: &'static str,
        /// `/etc/subuid`.
        file: &'static str,
        /// Of usermod.
        flag: &'static str,
        /// In its own words.
        said: String,
    },
}

/// Writes both maps of a process that has just been made in a new user namespace, and can be traced.
///
/// # Errors
/// When they are not this user's to write.
pub fn write(
    pid: i32,
    users: &[IdMappingPlan],
    groups: &[IdMappingPlan],
    user: User,
) -> Result<(), IdMapError> {
    if forbids_groups(groups, user) {
        put(pid, "setgroups", "deny")?;
    }
    write_one(pid, Kind::Users, users, user)?;
    write_one(pid, Kind::Groups, groups, user)
}

/// Whether processes in a namespace with these maps cannot change their supplementary groups.
#[must_use]
pub fn forbids_groups(groups: &[IdMappingPlan], user: User) -> bool {
    user.is_rootless() && !needs_program(groups, Kind::Groups, user)
}

/// Whether the map is more than a user may write by hand.
fn needs_program(ranges: &[IdMappingPlan], kind: Kind, user: User) -> bool {
    let own = if kind == Kind::Users { user.uid } else { user.gid };
    let is_own = matches!(ranges, [range] if range.count == 1 && range.outside == own);
    user.is_ordinary() && !is_own
}

fn write_one(pid: i32, kind: Kind, ranges: &[IdMappingPlan], user: User) -> Result<(), IdMapError> {
    if needs_program(ranges, kind, user) {
        return run_program(pid, kind, ranges);
    }
    put(pid, kind.file(), &lines(ranges))
}

fn put(pid: i32, file: &'static str, text: &str) -> Result<(), IdMapError> {
    fs::write(format!("/proc/{pid}/{file}"), text)
        .map_err(|source| IdMapError::Write { file, source })
}

/// As the kernel's files have them.
#[must_use]
pub fn lines(ranges: &[IdMappingPlan]) -> String {
    let line = |range: &IdMappingPlan| {
        let IdMappingPlan { inside, outside, count } = range;
        format!("{inside} {outside} {count}\n")
    };
    ranges.iter().map(line).collect()
}

fn run_program(pid: i32, kind: Kind, ranges: &[IdMappingPlan]) -> Result<(), IdMapError> {
    let (program, field) = (kind.program(), kind.field());
    let numbers = ranges.iter().flat_map(|range| [range.inside, range.outside, range.count]);
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .output()
        .map_err(|source| IdMapError::NoProgram { field, program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches(program).trim_start_matches(": ").to_owned();
    Err(IdMapError::Refused { field, program, file: kind.sub_file(), flag: kind.flag(), said })
}

impl Kind {
    const fn file(self) -> &'static str {
        match self {
            Self::Users => "uid_map",
            Self::Groups => "gid_map",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Users => "newuidmap",
            Self::Groups => "newgidmap",
        }
    }

    const fn field(self) -> &'static str {
        match self {
            Self::Users => "linux.uidMappings",
            Self::Groups => "linux.gidMappings",
        }
    }

    const fn sub_file(self) -> &'static str {
        match self {
            Self::Users => "/etc/subuid",
            Self::Groups => "/etc/subgid",
        }
    }

    const fn flag(self) -> &'static str {
        match self {
            Self::Users => "--add-subuids",
            Self::Groups => "--add-subgids",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: User = User { uid: 1000, gid: 100, in_user_namespace: false };

    fn range(inside: u32, outside: u32, count: u32) -> IdMappingPlan {
        IdMappingPlan { inside, outside, count }
    }

    #[test]
    fn only_the_own_id_is_written_by_hand() {
        let needs = |ranges: &[IdMappingPlan], kind| needs_program(ranges, kind, USER);
        assert!(!needs(&[range(0, 1000, 1)], Kind::Users));
        assert!(!needs(&[range(7, 100, 1)], Kind::Groups));
        assert!(needs(&[range(0, 1000, 1)], Kind::Groups));
        assert!(needs(&[range(0, 1000, 2)], Kind::Users));
        assert!(needs(&[range(0, 100_000, 1)], Kind::Users));
        assert!(needs(&[range(0, 1000, 1), range(1, 100_000, 65536)], Kind::Users));
    }

    #[test]
    fn root_writes_every_map_and_keeps_the_groups() {
        let root = User { uid: 0, gid: 0, in_user_namespace: false };
        assert!(!needs_program(&[range(0, 100_000, 65536)], Kind::Users, root));
        assert!(!forbids_groups(&[range(0, 0, 1)], root));
        assert!(forbids_groups(&[range(0, 100, 1)], USER));
        assert!(!forbids_groups(&[range(0, 100, 1), range(1, 100_000, 9)], USER));
    }

    #[test]
    fn a_map_is_written_as_the_kernel_reads_it() {
        assert_eq!(lines(&[range(0, 1000, 1), range(1, 100_000, 9)]), "0 1000 1\n1 100000 9\n");
    }
}
