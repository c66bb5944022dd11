//! What the runtime tells the monitor: one [`VmConfig`] as a frame ([`crate::frame`]) on the
//! descriptor named by `--config-fd`.
//!
//! Everything that the monitor works on is a descriptor in here: it opens no path. The document
//! is the operator's and trusted; it is validated all the same, once, by [`VmConfig::validate`].

use serde::{Deserialize, Serialize};

use crate::bounds::{
    MAX_DISKS, MAX_INTERFACES, MAX_MEMORY_MIB, MAX_POD_PLACES, MAX_SHARES, MAX_VCPUS,
    MEMORY_BLOCK_MIB, MIN_MEMORY_MIB,
};
use crate::id::ContainerId;

/// A descriptor's number in the monitor, inherited from the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Descriptor(pub i32);

/// One virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// The sandbox, for messages.
    pub sandbox: ContainerId,
    /// Virtual processors, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// To how many they can grow while the guest runs: at least `vcpus`, at most [`MAX_VCPUS`].
    pub vcpus_max: u8,
    /// Guest memory in MiB, [`MIN_MEMORY_MIB`] to [`MAX_MEMORY_MIB`].
    pub memory_mib: u32,
    /// By how many blocks of [`MEMORY_BLOCK_MIB`] it can grow while
    /// the guest runs.
    pub memory_blocks_max: u32,
    /// How many network devices it can get while the guest runs, at most [`MAX_INTERFACES`].
    pub network_slots: u8,
    /// How many disks it can get while the guest runs, at most [`MAX_DISKS`].
    pub disk_slots: u8,
    /// For how many further containers there is a place among the shares ([`PodPlace`]), at most
    /// [`MAX_POD_PLACES`].
    pub pod_places: u8,
    /// The guest kernel: an uncompressed x86-64 ELF `vmlinux`, read-only.
    pub kernel: Descriptor,
    /// The guest's first file system, a cpio archive with the agent as `/init`, read-only.
    pub initramfs: Descriptor,
    /// `/dev/kvm`.
    pub kvm: Descriptor,
    /// A listening Unix stream socket: [`crate::control`].
    pub control: Descriptor,
    /// Where one [`BootReport`](crate::boot::BootReport) frame goes when the guest is up or lost.
    pub report: Descriptor,
    /// Where one [`ExitRecord`](crate::boot::ExitRecord) frame goes when the sandbox ends.
    pub exit_record: Descriptor,
    /// Where the monitor's log lines go (JSON lines), if anywhere.
    pub log: Option<Descriptor>,
    /// Where the guest's console goes as well as into the boot report, if anywhere.
    pub console: Option<Descriptor>,
    /// The folder `share` of the fs device's root: what the guest sees of the host. The share at
    /// index `n` appears as the entry named `n`.
    pub shares: Vec<Share>,
    /// The machine is one that was saved, and goes on from there; absent: it boots.
    pub restore: Option<RestoreFiles>,
    /// How long the guest may take until its lifeline says ready, in milliseconds.
    pub boot_timeout_ms: u64,
}

/// What a machine was saved into: see [`crate::control::ControlRequest::Checkpoint`]. Not to be
/// believed: somebody may have changed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreFiles {
    /// The guest's memory, read-only. Mapped privately: it stays as it is, and must for as long as
    /// the machine runs.
    pub memory: Descriptor,
    /// The machine's state, read-only.
    pub state: Descriptor,
}

/// One host tree or file that the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// A detached mount (`open_tree(OPEN_TREE_CLONE)`) that the monitor attaches in the file
    /// server's own mount namespace.
    pub tree: Descriptor,
    /// Whether the tree's root is a folder or a single file (a socket and a device count as
    /// files).
    pub kind: ShareKind,
}

/// The name of the thread that serves the shares: its mount namespace has nothing else.
pub const FILE_SERVER_THREAD: &str = "fs";

/// A place among the shares of a pod's machine, for a container that joins it: two empty folders
/// at first, on which the host mounts that container's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPlace(pub u8);

/// What the names of places' root file systems begin with.
const PLACE_ROOT: &str = "root";

impl PodPlace {
    /// The name of the container's root file system.
    #[must_use]
    pub fn root(self) -> String {
        format!("{PLACE_ROOT}{}", self.0)
    }

    /// The name of the folder with its other shares, each by its index.
    #[must_use]
    pub fn shares(self) -> String {
        format!("pod{}", self.0)
    }
}

/// Whether an entry among the shares is a container's root file system: that of the machine's own
/// container, or one at a [`PodPlace`].
#[must_use]
pub fn is_root_share(name: &[u8]) -> bool {
    name == b"0" || name.starts_with(PLACE_ROOT.as_bytes())
}

/// What the root of a share is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShareKind {
    /// A folder.
    Folder,
    /// Anything else.
    File,
}

/// Which value of a `VmConfig` is out of its bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVmConfig {
    /// vCPUs.
    #[error("{0} vCPUs: 1 to {MAX_VCPUS} are possible")]
    Vcpus(u8),
    /// vCPUs.
    #[error(
        "At most {0} vCPUs: at least as many as there are at first, and {MAX_VCPUS}, are possible"
    )]
    MaxVcpus(u8),
    /// Memory.
    #[error("{0} blocks of memory to grow by are more than an address space has room for")]
    MemoryBlocks(u32),
    /// Memory.
    #[error("{0} MiB of guest memory: {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} are possible")]
    Memory(u32),
    /// Network devices.
    #[error("{0} network devices: at most {MAX_INTERFACES} are possible")]
    NetworkSlots(u8),
    /// Disks.
    #[error("{0} disks: at most {MAX_DISKS} are possible")]
    DiskSlots(u8),
    /// Places.
    #[error("{0} places for further containers: at most {MAX_POD_PLACES} are possible")]
    PodPlaces(u8),
    /// Shares.
    #[error("{0} shares: at most {MAX_SHARES} are possible")]
    Shares(usize),
}

impl VmConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first value that is out of its bounds.
    pub fn validate(&self) -> Result<(), InvalidVmConfig> {
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(InvalidVmConfig::Vcpus(self.vcpus));
        }
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return Err(InvalidVmConfig::Memory(self.memory_mib));
        }
        if !(self.vcpus..=MAX_VCPUS).contains(&self.vcpus_max) {
            return Err(InvalidVmConfig::MaxVcpus(self.vcpus_max));
        }
        if self.memory_blocks_max > MAX_MEMORY_MIB / MEMORY_BLOCK_MIB {
            return Err(InvalidVmConfig::MemoryBlocks(self.memory_blocks_max));
        }
        if self.network_slots > MAX_INTERFACES {
            return Err(InvalidVmConfig::NetworkSlots(self.network_slots));
        }
        if self.disk_slots > MAX_DISKS {
            return Err(InvalidVmConfig::DiskSlots(self.disk_slots));
        }
        if self.pod_places > MAX_POD_PLACES {
            return Err(InvalidVmConfig::PodPlaces(self.pod_places));
        }
        if self.shares.len() > MAX_SHARES {
            return Err(InvalidVmConfig::Shares(self.shares.len()));
        }
        Ok(())
    }
}
