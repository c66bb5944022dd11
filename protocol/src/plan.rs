//! What the agent executes: the plan of one container, and of one process.
//!
//! The runtime makes these from the OCI configuration (`runtime::plan`, pure), the agent follows
//! them to the letter. Everything that takes judgement (defaults, name look-ups in the spec,
//! compiling seccomp and device rules, cgroup v1 to v2 conversion) is done on the host; what is
//! left for the guest is system calls. The exceptions are what only the container's own files can
//! say: whether the program exists in `PATH`, and `HOME` from its `/etc/passwd`.
//!
//! The plans travel as JSON inside RPC messages; both ends are built from this crate.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::ContainerId;
use crate::vm_config::PodPlace;

/// One container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerPlan {
    /// It joins the machine of another container. Absent: the machine is its own.
    pub pod: Option<PodPlan>,
    /// Index of the share that is its root file system ([`crate::vm_config::VmConfig::shares`]).
    pub rootfs_share: u32,
    /// The root file system is read-only for the container (after the mount points are made).
    pub rootfs_readonly: bool,
    /// Propagation of the root mount, as `mount(2)` flags (`MS_SHARED | MS_REC` and so on); that of
    /// a mount of its own stays. 0: private.
    pub rootfs_propagation: u64,
    /// Host name in a UTS namespace of its own.
    pub hostname: Option<String>,
    /// NIS domain name, likewise.
    pub domainname: Option<String>,
    /// In this order, after the root.
    pub mounts: Vec<MountPlan>,
    /// Device nodes, made after the mounts.
    pub devices: Vec<DeviceNodePlan>,
    /// Symbolic links made in the root file system where nothing is: link, then target.
    pub symlinks: Vec<(String, String)>,
    /// Paths hidden: an empty read-only tmpfs over folders, `/dev/null` over files. Absent ones
    /// are skipped, as runc does.
    pub masked_paths: Vec<String>,
    /// Paths made read-only in place. Absent ones are skipped.
    pub readonly_paths: Vec<String>,
    /// Kernel parameters: key with dots, value.
    pub sysctl: BTreeMap<String, String>,
    /// Limits in the guest.
    pub cgroup: CgroupPlan,
    /// A user namespace of its own, which owns the others; absent: the guest's users.
    pub user_namespace: Option<UserNamespacePlan>,
    /// A time namespace of its own, with these offsets; absent: the guest's clocks.
    pub time_offsets: Option<Vec<TimeOffsetPlan>>,
    /// Start hooks (`startContainer`), run in the container's namespaces before its program.
    pub start_hooks: Vec<HookPlan>,
    /// The container's state as hooks get it on stdin (OCI state JSON, status `created`).
    pub hook_state: String,
    /// The first process.
    pub process: ProcessPlan,
}

/// A container that joins another's machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodPlan {
    /// The container that the machine was made for, as it was called then.
    pub sandbox: ContainerId,
    /// Where this one's shares are: its root file system is no index, the others count from there.
    pub place: PodPlace,
    /// It has that container's IPC namespace.
    pub ipc: bool,
    /// It has that container's UTS namespace.
    pub uts: bool,
    /// It is born into that container's pid namespace.
    pub pid: bool,
}

/// A mount in the container. Targets are resolved by the agent inside the container's root
/// (`openat2` with `RESOLVE_IN_ROOT`); missing ones are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountPlan {
    /// Absolute path in the container.
    pub target: String,
    /// What appears there.
    pub source: MountSource,
    /// `mount(2)` flags: `MS_RDONLY`, `MS_NOSUID` and so on; for a bind those set by a remount.
    pub flags: u64,
    /// Mount attributes set on the whole tree (`mount_setattr(AT_RECURSIVE)`, `MOUNT_ATTR_*`):
    /// for `rro` and its like; 0 for none.
    pub recursive_attributes: u64,
    /// Mount attributes taken away from the whole tree: for `rrw` and its like.
    pub recursive_cleared: u64,
    /// Propagation flags set afterwards, one `mount(2)` call for each.
    pub propagation: Vec<u64>,
}

/// A user namespace: numbers inside stand for numbers outside, which are those of the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserNamespacePlan {
    /// Users.
    pub uids: Vec<IdMappingPlan>,
    /// Groups.
    pub gids: Vec<IdMappingPlan>,
}

/// A range of mapped numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMappingPlan {
    /// The first inside.
    pub inside: u32,
    /// What it stands for outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The distance of one clock of a time namespace from the guest's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeOffsetPlan {
    /// As `/proc/self/timens_offsets` names it: `monotonic` or `boottime`.
    pub clock: String,
    /// Seconds, which may be negative.
    pub seconds: i64,
    /// Nanoseconds, less than a second.
    pub nanoseconds: u32,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MountSource {
    /// A share of the host, bound.
    Share {
        /// Its index.
        index: u32,
        /// With everything mounted below it.
        recursive: bool,
        /// A folder (the mount point is made as a folder) or a file.
        folder: bool,
    },
    /// What is in the container already, bound once more.
    Inside {
        /// Absolute, in the container.
        path: String,
        /// With everything mounted below it.
        recursive: bool,
    },
    /// A kernel file system: `proc`, `sysfs`, `tmpfs`, `devpts`, `mqueue`.
    Filesystem {
        /// Its type.
        fstype: String,
        /// What `/proc/mounts` names as its source.
        source: String,
        /// Data for the file system: `mode=755,size=65536k`.
        data: String,
        /// A tmpfs begins with a copy of what was at the target (`tmpcopyup`).
        copy_up: bool,
    },
    /// The container's own part of the cgroup v2 tree.
    Cgroup,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceNodePlan {
    /// Absolute path in the container.
    pub path: String,
    /// What kind.
    pub kind: DeviceKind,
    /// Major number; unused for a FIFO.
    pub major: u32,
    /// Minor number; unused for a FIFO.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The kind of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
}

/// The container's cgroup in the guest (v2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CgroupPlan {
    /// Files of the cgroup and what is written to them, in this order. Each write must succeed.
    pub files: Vec<(String, String)>,
    /// An eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE` (raw `struct bpf_insn`s), attached
    /// to the cgroup. Absent: every device is allowed.
    pub device_program: Option<Vec<u8>>,
}

/// A hook of the container's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookPlan {
    /// Absolute path in the container.
    pub path: String,
    /// `argv`; empty: the path alone.
    pub args: Vec<String>,
    /// The whole environment; absent: that of the container's program.
    pub env: Option<Vec<String>>,
    /// Seconds until it counts as failed.
    pub timeout_s: Option<u32>,
}

/// One process in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessPlan {
    /// Program and arguments; not empty.
    pub args: Vec<String>,
    /// `NAME=value`. The agent adds `HOME` from the container's `/etc/passwd` where it is absent.
    pub env: Vec<String>,
    /// Working directory: absolute; made when missing.
    pub cwd: String,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups: exactly these.
    pub additional_gids: Vec<u32>,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// The five sets.
    pub capabilities: CapabilityPlan,
    /// Resource limits.
    pub rlimits: Vec<RlimitPlan>,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// When it runs, and where.
    pub scheduling: SchedulingPlan,
    /// `personality(2)`: `PER_LINUX32` and its like.
    pub personality: Option<u32>,
    /// A compiled seccomp filter, installed last.
    pub seccomp: Option<SeccompPlan>,
    /// How it is connected.
    pub stdio: StdioPlan,
}

/// When and where the kernel runs a process. Processors are the guest's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulingPlan {
    /// `sched_setattr`.
    pub scheduler: Option<SchedulerPlan>,
    /// `ioprio_set`: class and level as the kernel has them in one number.
    pub io_priority: Option<u16>,
    /// Where it may run while it is made; empty: anywhere.
    pub initial_cpus: Vec<u32>,
    /// Where its program may run; empty: where it did before.
    pub final_cpus: Vec<u32>,
}

/// `struct sched_attr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerPlan {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For the ordinary policies: -20 to 19.
    pub nice: i32,
    /// For the real-time policies: 1 to 99.
    pub priority: u32,
    /// For deadlines, in nanoseconds.
    pub runtime: u64,
    /// For deadlines, in nanoseconds.
    pub deadline: u64,
    /// For deadlines, in nanoseconds.
    pub period: u64,
}

/// Capability sets as bit masks: bit `n` is capability number `n` of `linux/capability.h`. The
/// agent intersects them with what its kernel knows, and fails if a requested bit is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapabilityPlan {
    /// Bounding set.
    pub bounding: u64,
    /// Effective set.
    pub effective: u64,
    /// Permitted set.
    pub permitted: u64,
    /// Inheritable set.
    pub inheritable: u64,
    /// Ambient set.
    pub ambient: u64,
}

/// One `setrlimit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlimitPlan {
    /// `RLIMIT_*` of x86-64 Linux.
    pub resource: u32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// A compiled seccomp filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeccompPlan {
    /// Raw `struct sock_filter`s, as `seccomp_export_bpf` writes them.
    pub program: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// How a process's standard streams are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StdioPlan {
    /// Pipes for those that are true, `/dev/null` for the rest. The agent keeps what is written
    /// until the stream connection comes.
    Pipes {
        /// Standard input.
        stdin: bool,
        /// Standard output.
        stdout: bool,
        /// Standard error.
        stderr: bool,
    },
    /// A terminal from the container's own devpts, with this size at first.
    Terminal {
        /// Lines; 0: unset.
        rows: u16,
        /// Characters in a line; 0: unset.
        columns: u16,
        /// No carriage return is added to a line feed: whoever shows it does that (`ONLCR`).
        keep_line_feeds: bool,
    },
}
