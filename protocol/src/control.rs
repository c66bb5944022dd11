//! The monitor's control socket: a Unix stream socket in the state folder, for the monitor's own
//! user only (peer credentials are checked).
//!
//! ```text
//!  client ── ControlRequest frame (+ descriptors) ──▶ monitor
//!         ◀─ ControlResponse frame ──
//!  Connect: from here on the connection is the guest's vsock connection, byte for byte.
//!  Attach:  the client may send Drain frames, each answered when its moment comes.
//!  Checkpoint: the client may send Resume; to hang up means the same.
//! ```

use serde::{Deserialize, Serialize};

use crate::id::ProcessToken;
use crate::monitor_metrics::MonitorMetrics;

/// The first frame on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlRequest {
    /// Become a connection to the agent's RPC port.
    ConnectAgent,
    /// Carry a process's streams. The descriptors come with the frame (`SCM_RIGHTS`).
    Attach(Attach),
    /// Answer with [`ControlResponse::Statistics`].
    Statistics,
    /// Answer with [`ControlResponse::Metrics`].
    Metrics,
    /// Save the machine into two files, empty and open for writing, whose descriptors come with
    /// the frame: the guest's memory (of its full length) and the machine's state. Answered with
    /// [`ControlResponse::Saved`]; the machine then stands still until a
    /// [`CheckpointCommand::Resume`], or until the connection ends.
    Checkpoint,
    /// Have this many blocks of memory ([`MEMORY_BLOCK_MIB`](crate::bounds::MEMORY_BLOCK_MIB)) beside
    /// what the guest began with, and answer with [`ControlResponse::Memory`]. Taking some away is
    /// for after the guest has given them back: what was in them is gone.
    SetMemoryBlocks(u32),
    /// Make a network device of the tap of whose queues the descriptors come with the frame, at most
    /// [`MAX_QUEUE_PAIRS`](crate::bounds::MAX_QUEUE_PAIRS), and answer with [`ControlResponse::Network`].
    AttachNetwork(AttachNetwork),
    /// Take the network device of this number away, and let go of its tap. Whatever its guest does, there is room
    /// for another then. One that is not there is taken away already.
    DetachNetwork(u32),
    /// Make a block device of the disk whose descriptor comes with the frame, and answer with
    /// [`ControlResponse::Disk`].
    AttachDisk(AttachDisk),
    /// Take the block device of this number away, and let go of its disk. Whatever its guest does, there is room
    /// for another then. One that is not there is taken away already.
    DetachDisk(u32),
    /// Carry the guest's questions for names ([`names`](crate::names)) to the name server of the
    /// container's network namespace. Three descriptors come with the frame: a datagram socket that is connected to it,
    /// and the two ends of a pair of stream sockets, of which the guest gets the second.
    ServeNames,
    /// Carry connections to the loopback interface of the pod's network namespace into the guest
    /// ([`forward`](crate::forward)). Two or three descriptors come with the frame: what has them come here
    /// for as long as it is open, and sockets that listen, which do not block.
    Forward,
}

/// What the guest's driver is told of a network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachNetwork {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// How long a packet may ever be: its driver takes no longer one later.
    pub mtu: u16,
    /// Whether the host's kernel takes and gives UDP that is not cut.
    pub uncut_udp: bool,
}

/// What the guest's driver is told of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachDisk {
    /// How much it holds.
    pub bytes: u64,
    /// How long its blocks are: a power of two, 512 bytes to 64 KiB.
    pub block_bytes: u32,
    /// The guest may not write: the descriptor need not be open for it.
    pub read_only: bool,
}

/// Which streams come with an [`ControlRequest::Attach`], and what they mean for the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// Whose streams: the process was created with this token before.
    pub process: ProcessToken,
    /// Which descriptors are there.
    pub streams: AttachedStreams,
    /// The sandbox ends with this process: when the lifeline reports its exit and its output is
    /// drained, the monitor ends with its exit code.
    pub ends_sandbox: bool,
}

/// The descriptors beside an attach request, in the order named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AttachedStreams {
    /// Those of stdin, stdout and stderr that are true; the process has `/dev/null` for the rest.
    Pipes {
        /// The first descriptor.
        stdin: bool,
        /// The next.
        stdout: bool,
        /// The next.
        stderr: bool,
    },
    /// One descriptor: the slave side of a pty on the host, in raw mode. With `controlling` the
    /// monitor makes it its controlling terminal, so that a resize of the master reaches the
    /// guest (at most one attach in a sandbox's life).
    Terminal {
        /// Make it the controlling terminal.
        controlling: bool,
    },
}

/// What an attach connection carries after its response, client to monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachCommand {
    /// Answer [`ControlResponse::Drained`] when everything that the guest has sent on these
    /// streams until now is written to the descriptors (or cannot be: the reader went away).
    Drain,
}

/// What a checkpoint's connection carries after its response, client to monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointCommand {
    /// Let the machine run on; answered with [`ControlResponse::Done`].
    Resume,
}

/// The monitor's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlResponse {
    /// Done: connected, or attached.
    Done,
    /// What was sent so far is written.
    Drained,
    /// The machine is saved, and stands still.
    Saved,
    /// Figures of this sandbox.
    Statistics(Statistics),
    /// Everything that the monitor counts.
    Metrics(MonitorMetrics),
    /// The guest's memory has the blocks asked for; the first of them is at this address.
    Memory {
        /// Guest-physical.
        first_block: u64,
    },
    /// The network device is there.
    Network {
        /// Its number among the virtio-mmio devices, as the guest's kernel counts them.
        device: u32,
    },
    /// The block device is there.
    Disk {
        /// Its number among the virtio-mmio devices, as the guest's kernel counts them.
        device: u32,
    },
    /// Refused; the reason is the monitor's own text.
    Refused(String),
}

/// Figures of a sandbox, for `doctor`, benchmarks and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// The monitor's own resident memory, guest memory not counted, in KiB.
    pub monitor_kib: u64,
    /// Guest memory that the host has resident, in KiB.
    pub guest_kib: u64,
    /// Exits of vCPUs to user space.
    pub exits: u64,
    /// Microseconds from the guest's first instruction to a ready agent; 0 before.
    #[serde(default)]
    pub boot_us: u64,
}
