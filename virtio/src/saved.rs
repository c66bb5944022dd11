//! What of a device is written down when a machine is saved, and read back when it is restored.
//!
//! A device is saved between two requests: what the driver has asked for and nobody has answered
//! is in the queues, and these are in guest memory. So this is little: registers, how far each
//! queue was read, and what the guest has numbers for.
//!
//! Hostile: all of it, once it comes from a file. Whoever takes it back checks every number, as if
//! the guest had written it.

use serde::{Deserialize, Serialize};

/// How far a queue is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueuePosition {
    /// The next entry of the available ring to be taken.
    pub next_available: u16,
    /// The next entry of the used ring to be filled.
    pub next_used: u16,
}

/// What the driver wrote for one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueState {
    /// Entries.
    pub size: u32,
    /// The driver is done with setting it up.
    pub ready: bool,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub driver: u64,
    /// Guest address of the used ring.
    pub device: u64,
    /// How far it is served.
    pub position: QueuePosition,
}

/// One register page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportState {
    /// Which device is behind it, as virtio numbers them.
    pub device_type: u32,
    /// The device status register.
    pub status: u32,
    /// The interrupt status register.
    pub interrupt: u32,
    /// Which queue the queue registers are about.
    pub queue_select: u32,
    /// Which half of the device's features is shown.
    pub device_select: u32,
    /// Which half of the driver's features is written.
    pub driver_select: u32,
    /// What the driver accepted.
    pub accepted: u64,
    /// The queues.
    pub queues: Vec<QueueState>,
}

/// The socket device. Its connections are not part of it: they end with the machine, and the
/// restored guest is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockState {
    /// The host's next port. A guest that has not let go of an old connection must not take a new
    /// one for it.
    pub next_port: u32,
}

/// A moment, as a file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTime {
    /// Since the epoch.
    pub seconds: i64,
    /// Less than a second.
    pub nanoseconds: u32,
}

/// What a file was like when the guest opened it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileVersion {
    /// When its content changed.
    pub modified: FileTime,
    /// When its attributes changed.
    pub changed: FileTime,
    /// Bytes.
    pub size: u64,
}

/// A path from the root of the shares: `0/bin/sh`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SavedPath {
    /// Most are text.
    Text(String),
    /// Linux asks no more of a path than that it has no zero in it.
    Bytes(Vec<u8>),
}

impl SavedPath {
    /// As the kernel has it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for SavedPath {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Bytes(error.into_bytes()), Self::Text)
    }
}

/// A file that the guest has a number for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InodeState {
    /// Its number.
    pub number: u64,
    /// How many files had the number before.
    pub generation: u64,
    /// Where it is. Absent when it has no name any more and is not open: the guest remembers it
    /// and will find that it is gone.
    pub path: Option<SavedPath>,
    /// The type bits of its mode.
    pub kind: u32,
    /// How often the guest looked it up and did not forget it.
    pub lookups: u64,
    /// When the guest opened it last.
    pub opened: Option<FileVersion>,
}

/// A file that the guest has open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandleState {
    /// Its number.
    pub number: u64,
    /// How many open files had the number before.
    pub generation: u64,
    /// The file's number.
    pub inode: u64,
    /// The flags that it is open with, as `open` has them.
    pub flags: u32,
    /// How long it was, if it is a regular file.
    pub size: Option<u64>,
}

/// The file system device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FsState {
    /// The files that the guest knows, but the root.
    pub inodes: Vec<InodeState>,
    /// The files that it has open.
    pub handles: Vec<HandleState>,
}
