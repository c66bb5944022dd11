//! Disks of the host's in a guest: opened here, served by the monitor, used by the guest under numbers of
//! its own.
//!
//! ```text
//!  opened ──▶ monitor has it ──▶ written down ──▶ guest's driver has it
//!    (before anything is made)       │ its last user goes: driver, monitor, record
//!                                    └──────────────▶ (nothing)
//! ```
//!
//! Containers of a pod that have the same disk share it in their machine: two devices for one disk would not
//! see what the other writes. What is not given back is gone with the machine.

mod record;

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_protocol::bounds::MAX_DISKS;
use cofferdam_protocol::control::AttachDisk;
use cofferdam_protocol::id::ContainerId;
use nix::libc;
use oci_spec::runtime::Spec;

use super::agent::{Agent, AgentError};
use super::control::{self, ControlError};
use crate::host::log::with_causes;
use crate::plan::DeviceRuleError;
use crate::plan::disks::{self, DiskNumber, DiskPlan, GivenDisk};
use record::{Disks, HeldDisk};

/// How long a guest has to give one back, and a monitor to let go of it.
const BACK_TIMEOUT: Duration = Duration::from_secs(10);
/// Where the kernel says what a number is called.
const NUMBERS: &str = "/sys/dev/block";

/// Why a guest does not get a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// What may be done with it.
    #[error("The device rules cannot be kept")]
    Rules(#[from] DeviceRuleError),
    /// All of them.
    #[error("linux.devices: {0} block devices: a microVM can have {MAX_DISKS}")]
    TooMany(usize),
    /// Its number.
    #[error("linux.devices[{index}]: this host has no block device {number}")]
    Missing {
        /// Which.
        index: usize,
        /// Its number.
        number: DiskNumber,
        /// Why not.
        source: io::Error,
    },
    /// The host's node.
    #[error("linux.devices[{index}]: {path} cannot be opened")]
    Open {
        /// Which.
        index: usize,
        /// The host's node.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The host's node.
    #[error("linux.devices[{index}]: {path} is not the block device {number}")]
    Mismatch {
        /// Which.
        index: usize,
        /// The host's node.
        path: PathBuf,
        /// What was looked for.
        number: DiskNumber,
    },
    /// Another container of the pod.
    #[error(
        "linux.devices: another container of the pod has the block device {0}, and may not write to it: \
         its machine can have it in one way only"
    )]
    ReadOnlyInPod(DiskNumber),
    /// `restore`.
    #[error("A container with block devices cannot be restored: what was saved has none")]
    Restored,
    /// A file in the state folder.
    #[error("The record of the machine's disks cannot be written or read")]
    Record(#[source] io::Error),
    /// The monitor.
    #[error("The block device {number} cannot be attached to the microVM")]
    Attach {
        /// Its number.
        number: DiskNumber,
        /// Why not.
        source: ControlError,
    },
    /// The guest.
    #[error("The guest cannot use the block device {number}")]
    Guest {
        /// Its number.
        number: DiskNumber,
        /// Why not.
        source: AgentError,
    },
}

/// The disks of a container that is to be made.
#[derive(Debug)]
pub(super) struct OpenDisks(Vec<OpenDisk>);

#[derive(Debug)]
struct OpenDisk {
    number: DiskNumber,
    file: File,
    request: AttachDisk,
}

impl OpenDisks {
    /// Opens what the configuration names, for as much as it allows.
    pub(super) fn open(spec: &Spec) -> Result<Self, DiskError> {
        let plans = disks::plan(spec)?;
        if plans.len() > usize::from(MAX_DISKS) {
            return Err(DiskError::TooMany(plans.len()));
        }
        Ok(Self(plans.iter().map(OpenDisk::open).collect::<Result<_, _>>()?))
    }

    /// How many.
    pub(super) fn count(&self) -> u8 {
        // At most MAX_DISKS.
        u8::try_from(self.0.len()).unwrap_or(u8::MAX)
    }

    /// Gives them to a container in the machine of this state folder. Whoever asks is alone with it. What was given
    /// before one fails is for [`take_back`].
    pub(super) fn give(
        &self,
        id: &ContainerId,
        machine: &Path,
    ) -> Result<Vec<GivenDisk>, DiskError> {
        self.0.iter().map(|disk| disk.give(id, machine)).collect()
    }
}

impl OpenDisk {
    fn open(plan: &DiskPlan) -> Result<Self, DiskError> {
        let DiskPlan { index, number, writable } = *plan;
        let missing = |source| DiskError::Missing { index, number, source };
        let path = node_of(number).map_err(missing)?;
        let fail = |source| DiskError::Open { index, path: path.clone(), source };
        let (mut file, read_only) = open_node(&path, writable).map_err(fail)?;
        if !is_it(&file, number).map_err(fail)? {
            return Err(DiskError::Mismatch { index, path, number });
        }
        let bytes = file.seek(SeekFrom::End(0)).map_err(fail)?;
        let block_bytes = rustix::fs::ioctl_blksszget(&file).map_err(|errno| fail(errno.into()))?;
        Ok(Self { number, file, request: AttachDisk { bytes, block_bytes, read_only } })
    }

    fn give(&self, id: &ContainerId, machine: &Path) -> Result<GivenDisk, DiskError> {
        let mut held = Disks::find(machine).map_err(DiskError::Record)?;
        let shared = match held.with(self.number) {
            Some(disk) if disk.read_only && !self.request.read_only => {
                return Err(DiskError::ReadOnlyInPod(self.number));
            }
            Some(disk) => disk.share_with(id),
            None => None,
        };
        if let Some(given) = shared {
            held.save(machine).map_err(DiskError::Record)?;
            return Ok(given);
        }
        let device = self.attach(machine)?;
        held.add(HeldDisk::new(self.number, device, self.request.read_only, id));
        held.save(machine).map_err(DiskError::Record)?;
        let guest = ask(machine, |agent| agent.add_disk(device, BACK_TIMEOUT));
        let number = self.number;
        let guest = guest.map_err(|source| DiskError::Guest { number, source })?;
        let given = GivenDisk { host: number, guest };
        held.is_in_use(given);
        held.save(machine).map_err(DiskError::Record)?;
        Ok(given)
    }

    fn attach(&self, machine: &Path) -> Result<u32, DiskError> {
        let attached = control::attach_disk(machine, self.request, self.file.as_fd(), BACK_TIMEOUT);
        attached.map_err(|source| DiskError::Attach { number: self.number, source })
    }
}

/// Where the host has a disk.
fn node_of(number: DiskNumber) -> io::Result<PathBuf> {
    let words = std::fs::read_to_string(format!("{NUMBERS}/{number}/uevent"))?;
    let name = words.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map(|name| Path::new("/dev").join(name)).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Opens a disk, to be read only where nothing may be written or the disk does not allow it; whether that
/// is so.
fn open_node(path: &Path, writable: bool) -> io::Result<(File, bool)> {
    let open = |write| {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)
    };
    if !writable {
        return Ok((open(false)?, true));
    }
    match open(true) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES)) => {
            Ok((open(false)?, true))
        }
        opened => Ok((opened?, false)),
    }
}

fn is_it(file: &File, number: DiskNumber) -> io::Result<bool> {
    let metadata = file.metadata()?;
    let device = metadata.rdev();
    let found = DiskNumber { major: libc::major(device), minor: libc::minor(device) };
    Ok(metadata.file_type().is_block_device() && found == number)
}

/// Whether the machine of this state folder has any.
pub(super) fn are_there(machine: &Path) -> io::Result<bool> {
    Ok(!Disks::find(machine)?.is_empty())
}

/// Takes those back that no other container of the machine has. A guest that keeps one loses it all the same.
pub(super) fn take_back(id: &ContainerId, machine: &Path) -> Result<(), DiskError> {
    let mut held = Disks::find(machine).map_err(DiskError::Record)?;
    let idle = held.without(id);
    for disk in &idle {
        if let Err(error) = ask(machine, |agent| agent.remove_disk(disk.device, BACK_TIMEOUT)) {
            tracing::warn!("The guest keeps the disk {}: {}", disk.host, with_causes(&error));
        }
        let detached = control::detach_disk(machine, disk.device, BACK_TIMEOUT);
        let number = disk.host;
        detached.map_err(|source| DiskError::Attach { number, source })?;
        held.remove(disk.device);
        held.save(machine).map_err(DiskError::Record)?;
    }
    if idle.is_empty() { held.save(machine).map_err(DiskError::Record) } else { Ok(()) }
}

fn ask<T>(
    machine: &Path,
    request: impl FnOnce(&mut Agent) -> Result<T, AgentError>,
) -> Result<T, AgentError> {
    let connection = control::connect_agent(machine, BACK_TIMEOUT);
    request(&mut Agent::new(connection.map_err(AgentError::Reach)?))
}
