//! What a monitor counts of its own virtual machine, for the node's metrics.
//!
//! Every number is the monitor's or the host kernel's; none of them is the guest's word. A guest can
//! make them grow, and no more: there are as many of them as the machine has devices.

use serde::{Deserialize, Serialize};

/// Everything that a monitor counts. All counters are since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorMetrics {
    /// The monitor's own resident memory, guest memory not counted, in KiB.
    pub monitor_kib: u64,
    /// Guest memory that the host has resident, in KiB.
    pub guest_kib: u64,
    /// The vCPUs' exits to the monitor.
    pub monitor_exits: MonitorExits,
    /// What KVM counts of the vCPUs together; absent where the host's kernel does not tell
    /// (before Linux 5.14).
    pub kvm_exits: Option<KvmExits>,
    /// The virtio devices, in the order of their windows.
    pub devices: Vec<DeviceMetrics>,
}

/// Exits of vCPUs to the monitor, by what the guest wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorExits {
    /// A port was read.
    pub port_read: u64,
    /// A port was written.
    pub port_write: u64,
    /// A device's register was read.
    pub mmio_read: u64,
    /// A device's register was written.
    pub mmio_write: u64,
    /// Anything else.
    pub other: u64,
}

/// What KVM counts of the exits of vCPUs, those that the kernel handles by itself included
/// (Documentation/virt/kvm/api.rst, 4.135). The reasons are KVM's own counts: one exit may be in two
/// of them, and some are in none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvmExits {
    /// All of them.
    pub exits: u64,
    /// A port.
    pub io_exits: u64,
    /// A device's register.
    pub mmio_exits: u64,
    /// The guest had nothing to do.
    pub halt_exits: u64,
    /// An interrupt of the host.
    pub irq_exits: u64,
    /// The guest can take an interrupt now.
    pub irq_window_exits: u64,
    /// The same for a non-maskable one.
    pub nmi_window_exits: u64,
    /// The monitor asked for the moment at which an interrupt can be taken.
    pub request_irq_exits: u64,
    /// A signal of the host.
    pub signal_exits: u64,
    /// The guest called its hypervisor.
    pub hypercalls: u64,
    /// An instruction was emulated.
    pub insn_emulation: u64,
}

/// One virtio device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceMetrics {
    /// What it is.
    pub kind: DeviceKind,
    /// In which window. Network devices come and go, and windows are used again.
    pub slot: u32,
    /// How often it has raised its interrupt.
    pub interrupts: u64,
    /// Its queues, in order.
    pub queues: Vec<QueueMetrics>,
}

/// The kinds of virtio devices that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// Sockets.
    Vsock,
    /// Entropy.
    Rng,
    /// Files.
    Fs,
    /// Network.
    Net,
    /// Disks.
    Blk,
}

/// One queue of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueMetrics {
    /// How often the device was woken to serve it.
    pub notifications: u64,
    /// Buffers that were given back to the guest.
    pub buffers: u64,
    /// Bytes that were written for the guest.
    pub bytes_to_guest: u64,
    /// Bytes that the guest gave to read.
    pub bytes_from_guest: u64,
}
