//! What will be done, as data: from the OCI configuration to the plan that monitor and agent
//! execute.
//!
//! Pure: no system call, no clock, no environment. What only the host can say (is a bind mount's
//! source a folder?) is gathered before and comes in as [`HostFacts`]. So every decision can be
//! tested by its input and its output.
//!
//! Trusted: everything here is the operator's. What a microVM cannot do is refused by the name of
//! the field ([`unsupported`]); nothing is dropped in silence.

mod announcement;
mod bpf;
mod capability;
mod cgroup;
mod container;
mod device_numbers;
mod device_program;
mod device_rules;
mod devices;
pub mod disks;
mod environment;
pub(crate) mod forward_program;
mod growth;
pub mod hardening;
pub mod host_limits;
mod memory_policy;
pub(crate) mod mount_options;
mod mounts;
pub mod network;
pub mod network_changes;
pub mod own_users;
pub mod pod;
mod process;
mod refusal;
mod scheduling;
pub(crate) mod seccomp;
mod shape;
mod update;

use std::path::{Path, PathBuf};

use cofferdam_protocol::id::ContainerId;
use cofferdam_protocol::plan::{ContainerPlan, IdMappingPlan, ProcessPlan, StdioPlan};
use cofferdam_protocol::vm_config::ShareKind;
use oci_spec::runtime::{Process, Spec};

pub use announcement::InvalidAnnouncement;
pub use cgroup::CgroupError;
pub use device_rules::DeviceRuleError;
pub use environment::last_of_each_name;
pub use growth::{MachineSize, RunningVm};
pub use memory_policy::MemoryPolicyPlan;
pub use mounts::{MountError, bind_source, id_mapping, source_inside};
pub use process::ProcessError;
pub use refusal::{Refusal, hosts_network, unsupported};
pub use scheduling::SchedulingError;
pub use seccomp::SeccompError;
pub use shape::{ShapeError, VmDefaults, VmShape};
pub use update::{UpdatePlan, UpdatePlanError};

/// One sandbox, complete: what the monitor and the agent get to see, but for descriptors.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SandboxPlan {
    /// The virtual machine.
    pub shape: VmShape,
    /// What the guest sees of the host; the first is the root file system.
    pub shares: Vec<SharePlan>,
    /// What the agent does.
    pub container: ContainerPlan,
}

/// A part of the host's file tree that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SharePlan {
    /// Where it is on the host. Absolute.
    pub source: PathBuf,
    /// What it is.
    pub kind: ShareKind,
    /// With what is mounted below it.
    pub recursive: bool,
    /// What the host itself enforces, whatever the guest does.
    pub access: ShareAccess,
    /// Other owners than the files have.
    pub owners: Option<OwnersPlan>,
}

/// An id-mapped mount: each number inside, as the files have it, is seen as the one outside.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct OwnersPlan {
    /// Users.
    pub uids: Vec<IdMappingPlan>,
    /// Groups.
    pub gids: Vec<IdMappingPlan>,
    /// On the mounts below as well.
    pub recursive: bool,
}

/// Who may write to a share, as the host's mount enforces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShareAccess {
    /// The guest may write.
    Writable,
    /// The guest may write to the top mount, which is read-only on the host.
    MadeWritable,
    /// The top mount is read-only; those below it are as they were.
    ReadOnly,
    /// The whole tree is read-only.
    ReadOnlyTree,
}

/// What a plan is made from.
#[derive(Debug)]
pub struct PlanInput<'a> {
    /// The container's name.
    pub id: &'a ContainerId,
    /// The bundle, absolute: relative bind sources start here.
    pub bundle: &'a Path,
    /// The root file system, absolute.
    pub rootfs: &'a Path,
    /// The configuration.
    pub spec: &'a Spec,
    /// What the process is connected to.
    pub stdio: StdioPlan,
    /// The operator's defaults for virtual machines.
    pub defaults: VmDefaults,
    /// What was found on the host.
    pub facts: &'a HostFacts,
}

/// What the host's file system says about the plan's sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// For each of the spec's mounts, in order: what its source is, if it is a bind mount.
    pub bind_sources: Vec<Option<SourceKind>>,
    /// For each of the spec's mounts: what the mount that its source is on forbids (`MS_RDONLY`,
    /// `MS_NOSUID`, `MS_NODEV`, `MS_NOEXEC`, `MS_NOSYMFOLLOW`) and how it keeps access times
    /// (`MS_NOATIME`, `MS_NODIRATIME`, `MS_STRICTATIME`). A bind mount keeps to it, and a guest would
    /// not know.
    pub bind_flags: Vec<u64>,
}

/// What a bind mount's source is, symbolic links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A character device.
    CharDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// What a microVM cannot serve today.
    #[error("{}", refusal::list(.0))]
    Unsupported(Vec<Refusal>),
    /// The virtual machine's size.
    #[error("No virtual machine fits the configuration")]
    Shape(#[source] ShapeError),
    /// A mount.
    #[error("A mount cannot be made")]
    Mount(#[source] MountError),
    /// The process.
    #[error("The process cannot be started")]
    Process(#[source] ProcessError),
    /// The limits.
    #[error("The resource limits cannot be kept")]
    Cgroup(#[source] CgroupError),
    /// `linux.rootfsPropagation`.
    #[error("Unknown linux.rootfsPropagation {0:?}")]
    RootfsPropagation(String),
    /// A kernel parameter that is not a name.
    #[error("linux.sysctl: {0:?} is not the name of a kernel parameter")]
    Sysctl(String),
}

impl SandboxPlan {
    /// Makes the plan of a sandbox and its container.
    ///
    /// # Errors
    /// Whatever of the configuration cannot be served, by name.
    pub fn new(input: &PlanInput<'_>) -> Result<Self, PlanError> {
        let refused = unsupported(input.spec);
        if !refused.is_empty() {
            return Err(PlanError::Unsupported(refused));
        }
        let shape = VmShape::new(input.spec, input.defaults).map_err(PlanError::Shape)?;
        let (container, binds) = container::plan(input)?;
        let mut shares = vec![SharePlan {
            source: input.rootfs.to_owned(),
            kind: ShareKind::Folder,
            recursive: true,
            access: ShareAccess::Writable,
            owners: None,
        }];
        shares.extend(binds);
        Ok(Self { shape, shares, container })
    }
}

/// Makes the plan of one more process in a container with this configuration.
///
/// # Errors
/// Whatever of the process cannot be served, by name.
pub fn exec_plan(
    process: &Process,
    spec: &Spec,
    stdio: StdioPlan,
) -> Result<ProcessPlan, PlanError> {
    let refused = refusal::unsupported_process(process);
    if !refused.is_empty() {
        return Err(PlanError::Unsupported(refused));
    }
    let mut plan =
        process::plan(process, spec.linux().as_ref(), stdio).map_err(PlanError::Process)?;
    scheduling::set_affinity(&mut plan.scheduling, process)
        .map_err(|error| PlanError::Process(ProcessError::Scheduling(error)))?;
    Ok(plan)
}
