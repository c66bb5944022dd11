//! The command line: runc's verbs with runc's flags, and a few of our own. What was said, not what
//! will be done: nothing here looks at the machine.

mod checkpoint;
mod install;
mod metrics;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::IsolationRequest;
use crate::host::log::LogFormat;
use crate::spec::process::UserOverride;

pub use checkpoint::{CheckpointArgs, CriuArgs, RestoreArgs};
pub use install::InstallArgs;
pub use metrics::{ListenAddress, MetricsArgs, MetricsFormat};

/// In the lines in which Docker and Podman look for it.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.2.0");

/// An OCI container runtime with a guest kernel for each container.
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version = VERSION, disable_version_flag = true)]
pub struct Cli {
    /// For every verb.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags for every verb.
#[derive(Clone, Debug, Args)]
pub struct GlobalArgs {
    /// Folder of all containers' state [default: /run/cofferdam, or below $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Write the log to this file (standard error without)
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Format of the log file
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Log what is done, step by step
    #[arg(long)]
    pub debug: bool,
    /// cgroupsPath is `slice:prefix:name`, for systemd to make
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// As runc has it; without effect: what root alone can do is found out by trying
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub rootless: Rootless,
    /// What containers run in
    #[arg(long, value_enum, global = true, value_name = "KIND")]
    pub isolation: Option<IsolationRequest>,
    /// Add no hardening to what the configuration says, and be as lenient as runc
    #[arg(long, global = true)]
    pub compat: bool,
    /// The operator's configuration [default: /etc/cofferdam/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the version
    #[arg(long, short = 'v', action = clap::ArgAction::Version)]
    pub version: Option<bool>,
}

/// `--rootless`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Rootless {
    /// It is.
    True,
    /// It is not.
    False,
    /// As it turns out.
    #[default]
    Auto,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create a container
    Create(CreateArgs),
    /// Execute the user defined process in a created container
    Start(StartArgs),
    /// Output the state of a container
    State(StateArgs),
    /// Send a signal to a container's init process
    Kill(KillArgs),
    /// Delete everything held by a container
    Delete(DeleteArgs),
    /// Create and run a container
    Run(RunArgs),
    /// Execute a new process inside a container
    Exec(Box<ExecArgs>),
    /// Suspend all processes inside a container
    Pause(PauseArgs),
    /// Resume all processes that were paused
    Resume(ResumeArgs),
    /// Save a running container into a folder
    Checkpoint(Box<CheckpointArgs>),
    /// Set a container going again from where it was saved
    Restore(Box<RestoreArgs>),
    /// Change the limits of a container
    Update(Box<UpdateArgs>),
    /// Show what a container uses, and when its memory runs out, as lines of JSON
    Events(EventsArgs),
    /// List containers
    List(ListArgs),
    /// Show the processes inside a container
    Ps(PsArgs),
    /// Write a starter configuration
    Spec(SpecArgs),
    /// Show what this runtime supports, as JSON
    Features,
    /// Check what this machine has of what containers need
    Doctor(DoctorArgs),
    /// Show this machine's figures for Prometheus, or serve them
    Metrics(MetricsArgs),
    /// Make this a runtime of an engine, in the engine's configuration
    Install(InstallArgs),
    /// Print the completions for a shell
    #[command(alias = "completions")]
    Completion(CompletionArgs),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man(ManArgs),
}

/// Which container.
#[derive(Clone, Debug, Default, Args)]
pub struct Target {
    /// The container's name
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

/// What `create` and `run` share.
#[derive(Clone, Debug, Args)]
pub struct CreateArgs {
    /// Folder with the configuration
    #[arg(long, short, value_name = "DIR", default_value = ".", hide_default_value = true)]
    pub bundle: PathBuf,
    /// Unix socket that gets the master side of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Unix socket that gets a descriptor of the process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// File to write the process id to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Do not use pivot_root (for a root file system on a ramdisk)
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Pass this many descriptors from 3 on to the container
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// The container.
    #[command(flatten)]
    pub target: Target,
    /// Not a flag: what `restore` makes the container from.
    #[arg(skip)]
    pub restore: Option<Box<RestoreArgs>>,
}

/// `start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// The container.
    #[command(flatten)]
    pub target: Target,
}

/// `state`.
#[derive(Debug, Args)]
pub struct StateArgs {
    /// The container.
    #[command(flatten)]
    pub target: Target,
}

/// `kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Send the signal to every process inside the container
    #[arg(long, short)]
    pub all: bool,
    /// The container.
    #[command(flatten)]
    pub target: Target,
    /// Name or number
    #[arg(default_value = "SIGTERM")]
    pub signal: String,
}

/// `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Kill it first if it still runs; it is no error if there is none
    #[arg(long, short)]
    pub force: bool,
    /// The container.
    #[command(flatten)]
    pub target: Target,
}

/// `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// As for `create`.
    #[command(flatten)]
    pub create: CreateArgs,
    /// Leave the container alone once it runs
    #[arg(long, short)]
    pub detach: bool,
    /// Do not delete the container when it has ended
    #[arg(long)]
    pub keep: bool,
    /// Do not adopt the container's orphans
    #[arg(long)]
    pub no_subreaper: bool,
}

/// `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Unix socket that gets the master side of the process's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Working folder in the container
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Add to the environment
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Give it a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// User, and group
    #[arg(long, short, value_name = "UID[:GID]")]
    pub user: Option<UserOverride>,
    /// Add a group
    #[arg(long, short = 'g', value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// Take the process from this file, not from the flags
    #[arg(long, short, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Leave the process alone once it runs
    #[arg(long, short)]
    pub detach: bool,
    /// Unix socket that gets a descriptor of the process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// File to write the process id to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// Set no_new_privs
    #[arg(long)]
    pub no_new_privs: bool,
    /// Add a capability
    #[arg(long, short, value_name = "CAP")]
    pub cap: Vec<String>,
    /// Pass this many descriptors from 3 on to the process
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Run it in this cgroup below the container's: PATH, or CONTROLLER:PATH
    #[arg(long, value_name = "PATH")]
    pub cgroup: Vec<String>,
    /// Also in a paused container, where the process waits until that is resumed
    #[arg(long)]
    pub ignore_paused: bool,
    /// The container.
    #[command(flatten)]
    pub target: Target,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `pause`.
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// The container.
    #[command(flatten)]
    pub target: Target,
}

/// `resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// The container.
    #[command(flatten)]
    pub target: Target,
}

/// `update`. Values are read by the verb: what is none is refused by its flag, as runc has it.
#[derive(Debug, Default, Args)]
pub struct UpdateArgs {
    /// Take the limits from this file (- is standard input), not from the flags
    #[arg(long, short, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Memory limit: bytes, or with a unit (k, m, g); -1 for none
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub memory: Option<String>,
    /// Memory that is left to the container under pressure
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub memory_reservation: Option<String>,
    /// Memory and swap together; -1 for no limit
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub memory_swap: Option<String>,
    /// As runc has it; without effect: kernels no longer limit it
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub kernel_memory: Option<String>,
    /// As runc has it; without effect
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub kernel_memory_tcp: Option<String>,
    /// Period of the processor quota, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<String>,
    /// Processor time in a period, in microseconds; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_quota: Option<String>,
    /// Processor time that may be saved up for bursts, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_burst: Option<String>,
    /// Share of the processors, relative to other containers
    #[arg(long, value_name = "SHARES")]
    pub cpu_share: Option<String>,
    /// Period of the real-time quota, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_rt_period: Option<String>,
    /// Real-time processor time in a period, in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_rt_runtime: Option<String>,
    /// 1: the container gets what nobody else wants of the processors
    #[arg(long, value_name = "0|1", allow_negative_numbers = true)]
    pub cpu_idle: Option<String>,
    /// Processors to use
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// How many processes there may be; -1 for no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub pids_limit: Option<String>,
    /// Share of the disks, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<String>,
    /// Schema of Intel RDT/CAT for the L3 cache
    #[arg(long, value_name = "SCHEMA")]
    pub l3_cache_schema: Option<String>,
    /// Schema of Intel RDT/MBA for memory bandwidth
    #[arg(long, value_name = "SCHEMA")]
    pub mem_bw_schema: Option<String>,
    /// The container.
    #[command(flatten)]
    pub target: Target,
}

/// `events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Time between two lines, as 5s, 500ms or 1m30s
    #[arg(long, value_name = "TIME", default_value = "5s", allow_hyphen_values = true)]
    pub interval: String,
    /// Show what it uses now, and no more
    #[arg(long)]
    pub stats: bool,
    /// The container.
    #[command(flatten)]
    pub target: Target,
}

/// Text for people or JSON for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    pub format: OutputFormat,
    /// Only the names
    #[arg(long, short)]
    pub quiet: bool,
}

/// `ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    pub format: OutputFormat,
    /// The container.
    #[command(flatten)]
    pub target: Target,
    /// Options for ps(1) [default: -ef]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PS-OPTION")]
    pub options: Vec<String>,
}

/// `spec`.
#[derive(Debug, Args)]
pub struct SpecArgs {
    /// For a user without privileges
    #[arg(long = "rootless", id = "rootless_template")]
    pub rootless: bool,
    /// Folder to write it to
    #[arg(long, short, value_name = "DIR", default_value = ".", hide_default_value = true)]
    pub bundle: PathBuf,
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    pub format: OutputFormat,
}

/// `completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// For which shell
    pub shell: Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder to write them to
    pub folder: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_version_names_that_of_the_specification() {
        assert!(VERSION.ends_with(&format!("spec: {}", crate::spec::template::OCI_VERSION)));
    }

    #[test]
    fn what_engines_say_is_understood() {
        for line in [
            "runc --root /r --log /l --log-format json --systemd-cgroup create --bundle /b --pid-file /p --console-socket /s id",
            "runc --root /r --log /l --log-format json run --detach --no-pivot --no-new-keyring --preserve-fds 2 -b /b id",
            "runc create id --bundle /b",
            "runc --debug --rootless=false delete --force id",
            "runc kill --all id 9",
            "runc exec --process /p.json --detach --pid-file /x id",
            "runc exec -t -u 1:2 -e A=b -e C= -g 5 -g 6 --cwd / --cap CAP_KILL id sh -c ls",
            "runc list --format json -q",
            "runc ps --format json id",
            "runc ps id -ef",
            "runc spec --rootless --bundle /b",
            "runc pause id",
            "runc events --stats id",
            "runc events --interval 100ms id",
            "runc checkpoint --image-path /i --work-path /w --leave-running --tcp-established --ext-unix-sk --shell-job --file-locks id",
            "runc checkpoint --pre-dump --parent-path ../p --lazy-pages --status-fd 5 --page-server 1.2.3.4:5 --manage-cgroups-mode soft --empty-ns network --auto-dedup id",
            "runc restore --bundle /b --image-path /i --work-path /w --detach --pid-file /p --console-socket /s --tcp-established --ext-unix-sk --shell-job --file-locks --no-pivot --no-subreaper --lsm-profile apparmor:x --lsm-mount-context c id",
            "runc update --memory -1 --memory-swap -1 --cpu-quota -1 --pids-limit -1 id",
            "runc update id --cpu-share 5 -r -",
            "runc update --resources=/r.json id",
            "runc run id --isolation microvm --compat",
            "runc metrics --format json --also /r --also /s",
            "runc metrics --listen unix:/run/m.sock",
            "runc --version-is-not-a-flag",
        ] {
            assert_eq!(parse(line).is_ok(), !line.contains("not-a-flag"), "{line}");
        }
    }

    #[test]
    fn options_behind_the_program_are_the_programs() {
        let Verb::Exec(exec) = parse("c exec id ls -t --cwd x").unwrap().verb else { panic!() };
        assert_eq!(exec.command, ["ls", "-t", "--cwd", "x"]);
        assert!(!exec.tty);
    }

    #[test]
    fn the_signal_is_sigterm_by_default() {
        let Verb::Kill(kill) = parse("c kill id").unwrap().verb else { panic!() };
        assert_eq!(kill.signal, "SIGTERM");
    }
}
