//! The flags of `checkpoint` and `restore`, as runc has them. Which of them mean something is for
//! each kind of sandbox to say.

use std::path::PathBuf;

use clap::Args;

use super::Target;

/// What both have: words for CRIU.
#[derive(Clone, Debug, Default, Args)]
pub struct CriuArgs {
    /// Folder of the image [default: ./checkpoint]
    #[arg(long, value_name = "DIR")]
    pub image_path: Option<PathBuf>,
    /// Folder for CRIU's work files and logs
    #[arg(long, value_name = "DIR")]
    pub work_path: Option<PathBuf>,
    /// Allow open TCP connections
    #[arg(long)]
    pub tcp_established: bool,
    /// Allow connections to Unix sockets outside of the container
    #[arg(long)]
    pub ext_unix_sk: bool,
    /// Allow a container on the caller's terminal
    #[arg(long)]
    pub shell_job: bool,
    /// Fetch memory when it is touched
    #[arg(long)]
    pub lazy_pages: bool,
    /// Save and restore file locks
    #[arg(long)]
    pub file_locks: bool,
    /// Control groups: soft, full, strict or ignore
    #[arg(long, value_name = "MODE", value_parser = ["soft", "full", "strict", "ignore"])]
    pub manage_cgroups_mode: Option<String>,
    /// Make this namespace, but do not restore what was in it
    #[arg(long, value_name = "NAMESPACE")]
    pub empty_ns: Vec<String>,
    /// Drop what an earlier image has as well
    #[arg(long)]
    pub auto_dedup: bool,
}

/// `checkpoint`.
#[derive(Clone, Debug, Default, Args)]
pub struct CheckpointArgs {
    /// For CRIU.
    #[command(flatten)]
    pub criu: CriuArgs,
    /// Folder of an earlier image, of which only the differences are saved
    #[arg(long, value_name = "DIR")]
    pub parent_path: Option<PathBuf>,
    /// Leave the container running
    #[arg(long)]
    pub leave_running: bool,
    /// Descriptor that is told when lazy pages can be fetched
    #[arg(long, value_name = "FD", allow_negative_numbers = true)]
    pub status_fd: Option<i32>,
    /// Send memory to a server of pages
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub page_server: Option<String>,
    /// Save memory alone, and leave the container running
    #[arg(long)]
    pub pre_dump: bool,
    /// The container.
    #[command(flatten)]
    pub target: Target,
}

/// `restore`.
#[derive(Clone, Debug, Default, Args)]
pub struct RestoreArgs {
    /// For CRIU.
    #[command(flatten)]
    pub criu: CriuArgs,
    /// Unix socket that gets the master side of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Folder with the configuration
    #[arg(long, short, value_name = "DIR", default_value = ".", hide_default_value = true)]
    pub bundle: PathBuf,
    /// Leave the container alone once it runs
    #[arg(long, short)]
    pub detach: bool,
    /// File to write the process id to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Do not adopt the container's orphans
    #[arg(long)]
    pub no_subreaper: bool,
    /// Do not use pivot_root (for a root file system on a ramdisk)
    #[arg(long)]
    pub no_pivot: bool,
    /// Another profile of the security module, as TYPE:NAME
    #[arg(long, value_name = "TYPE:NAME")]
    pub lsm_profile: Option<String>,
    /// Another security context for mounts
    #[arg(long, value_name = "CONTEXT")]
    pub lsm_mount_context: Option<String>,
    /// The container.
    #[command(flatten)]
    pub target: Target,
}
