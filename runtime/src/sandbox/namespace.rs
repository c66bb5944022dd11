//! A sandbox of hardened namespaces, on `libcontainer`.
//!
//! ```text
//!   create    unsupported? ─▶ harden ─▶ compile seccomp ─▶ helper ─▶ Created
//!                                                            │ libcontainer: groups, namespaces,
//!                                                            │ mounts; then this crate: the process
//!   start     start.sock ─▶ hooks, execve                    ▼
//!   exec      helper ─▶ setns, the same preparation ─▶ execve
//!   kill, ps, pause, delete    pidfd, control groups
//! ```
//!
//! What this is not: a boundary against the kernel. A container here shares the host's, and a bug
//! in it is the container's way out; that is what the other kind of sandbox is for.
//!
//! Hostile: the container, as soon as it runs: its files, what its processes do to each other, the
//! groups that it makes below its own. Not hostile: the spec and the caller.

mod attendant;
mod cache_allocation;
mod cgroup;
mod checkpoint;
mod children;
mod confinement;
mod construct;
mod create;
mod criu;
mod criu_flags;
mod criu_image;
mod entry;
mod environment;
mod exec;
mod executor;
mod freezer;
mod helper;
mod hook;
mod host_mounts;
mod in_root;
mod job;
mod join;
mod lifecycle;
mod listener;
mod masked;
mod members;
mod mount_table;
mod mounts;
mod notices;
mod orphans;
mod own_users;
mod proc_mounts;
mod process;
mod record;
mod report;
mod report_log;
mod restore;
mod revive;
mod rootless;
mod scheduling;
mod sealed;
mod seccomp_cache;
mod shadow;
mod socket;
mod stage;
mod staged_mount;
mod statistics;
mod sys;
mod terminal;
mod undo;
mod unsupported;
mod update;
mod working_folder;

use std::process::ExitCode;

pub use checkpoint::{CheckpointError, checkpoint};
pub use create::{CreateError, StartError, create, start};
pub use entry::HelperError;
pub use exec::{ExecError, ExecStarted, ResizeError, SignalError, WaitError, exec};
pub use freezer::{FreezeError, pause, resume};
pub use lifecycle::{
    DeleteError, KillError, ProcessesError, delete, kill, kill_at_once, processes,
};
pub use restore::RestoreError;
pub use statistics::{StatisticsError, Watch, watch};
pub use unsupported::{Unsupported, unsupported};
pub use update::{UpdateError, update};

/// Runs this process as a helper, if it was started as one; to be asked before the command line is
/// parsed.
#[must_use]
pub fn run_as_helper() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(helper::ARGUMENT) {
        return None;
    }
    let arguments: Vec<String> = arguments.collect();
    Some(match entry::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("cofferdam {}: {e}", helper::ARGUMENT);
            ExitCode::FAILURE
        }
    })
}
