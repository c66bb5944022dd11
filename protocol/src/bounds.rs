//! The bounds on what crosses a boundary, each with the reason for its value.

/// The version of everything in this crate. Monitor, agent and runtime of one build agree; an
/// agent of another build is refused when its lifeline says so.
pub const PROTOCOL_VERSION: u32 = 5;

/// The version of what a checkpoint of a microVM is made of: its manifest, the machine's state and
/// the layout of the memory file.
pub const SNAPSHOT_VERSION: u32 = 2;
/// A machine's state has some 20 KiB for each vCPU and a line for each file that the guest knows:
/// [`MAX_VCPUS`] and a few hundred thousand files.
pub const MAX_SNAPSHOT_STATE_BYTES: usize = 128 << 20;

/// The host's vsock context id, fixed by the virtio specification.
pub const HOST_CID: u64 = 2;
/// The guest's context id. One VM for each monitor, and each monitor has its own muxer, so it
/// need not differ between VMs.
pub const GUEST_CID: u64 = 3;

/// Host port of the lifeline, the only one the guest may connect to, and only once.
pub const LIFELINE_PORT: u32 = 1024;
/// Guest port where the agent takes a process's standard streams.
pub const STREAM_PORT: u32 = 1025;
/// Guest port of the agent's ttrpc service.
pub const AGENT_RPC_PORT: u32 = 1026;
/// Guest port where the agent hears of changes of the host's files.
pub const CHANGES_PORT: u32 = 1027;

/// Guest port where the agent takes the connection that names are asked over.
pub const NAMES_PORT: u32 = 1028;
/// Guest port where the agent takes connections that were made to the pod's loopback interface on the host.
pub const FORWARD_PORT: u32 = 1029;

/// A `VmConfig` is a few hundred bytes with a line for each share; a million shares are a mistake.
pub const MAX_VM_CONFIG_BYTES: usize = 1 << 20;
/// A control frame names a process and carries descriptors beside it.
pub const MAX_CONTROL_BYTES: usize = 4 << 10;
/// What a monitor answers: at most as much as the figures of [`MAX_INTERFACES`] network devices with
/// nine queues each, a hundred and fifty bytes for each queue. A third of a socket's buffer: the
/// monitor never waits for who asks.
pub const MAX_CONTROL_ANSWER_BYTES: usize = 64 << 10;
/// Three streams of a process; as many as a network device may have queues: no request carries
/// more descriptors.
pub const MAX_CONTROL_DESCRIPTORS: usize = MAX_QUEUE_PAIRS;
/// A change names two folders of at most 4 KiB and two files, each byte in up to four of JSON.
pub const MAX_CHANGE_BYTES: usize = 64 << 10;
/// A boot report carries a console tail of at most [`MAX_CONSOLE_TAIL_BYTES`], escaped.
pub const MAX_BOOT_REPORT_BYTES: usize = 256 << 10;
/// The last lines of a guest's console: enough for an oops with its call trace.
pub const MAX_CONSOLE_TAIL_BYTES: usize = 16 << 10;
/// A container plan holds the spec's environment and mounts, and compiled seccomp programs; Linux
/// itself caps arguments and environment at 2 MiB by default. Under ttrpc's 4 MiB frame.
pub const MAX_PLAN_BYTES: usize = 3 << 20;

/// A question to a name server or its answer, in one datagram: what resolvers say that they take at
/// most. A guest could otherwise have the monitor keep 64 KiB for a name.
pub const MAX_NAME_MESSAGE_BYTES: usize = 4096;
/// Questions of a guest's that wait for their answers. A resolver has a few for each program.
pub const MAX_PENDING_NAMES: usize = 256;

/// Connections to the pod's loopback interface on the host that are carried into the guest at once. Each
/// may hold 128 KiB in the monitor and [`FORWARD_BUFFER_BYTES`] each way in the host's kernel, all on the
/// sandbox's account, and a place that processes' streams could have. Further ones wait to be taken.
pub const MAX_FORWARDED: usize = 64;
/// What the host's kernel keeps of such a connection in each direction: it doubles it, and by itself would
/// let it grow to 6 MiB. On the loopback interface more makes nothing faster.
pub const FORWARD_BUFFER_BYTES: usize = 64 << 10;

/// Virtio-mmio interrupts and the guest kernel's `NR_CPUS` bound it.
pub const MAX_VCPUS: u8 = 32;
/// Below this the guest kernel, its page tables and the agent leave no room for a workload.
pub const MIN_MEMORY_MIB: u32 = 48;
/// Guest memory lies below and above one hole; 1 TiB keeps every address in 40 bits.
pub const MAX_MEMORY_MIB: u32 = 1 << 20;
/// The memory of a running guest grows and shrinks by blocks of this size: what a kernel for x86-64
/// hot-plugs, in a guest that began with less than [`MAX_GROWING_MEMORY_MIB`].
pub const MEMORY_BLOCK_MIB: u32 = 128;
/// Above, the kernel's blocks are larger, by a rule of its own: such a guest stays as it began.
pub const MAX_GROWING_MEMORY_MIB: u32 = 60 << 10;
/// Host trees and files that one VM sees at boot: the root file system and the bind mounts.
pub const MAX_SHARES: usize = 1024;
/// Containers that a pod's VM has room for beside the first: as many as Kubernetes lets a node have
/// pods is far more than one of them has containers, those that are restarted included.
pub const MAX_POD_PLACES: u8 = 64;
/// Network interfaces of one VM: each has a window and an interrupt of its own kept for it.
pub const MAX_INTERFACES: u8 = 8;
/// Pairs of queues of a network device, one for each of its guest's processors that can send beside
/// the others. One thread of the monitor's serves all of them: more would wait for it. Each costs the guest
/// half a megabyte of buffers.
pub const MAX_QUEUE_PAIRS: usize = 4;
/// Disks of one VM at once, those of a pod's containers together. With the interfaces they take all
/// interrupts that an I/O APIC has.
pub const MAX_DISKS: u8 = 8;
/// How many the containers that join a pod may bring: it was not said before.
pub const SPARE_DISKS: u8 = 4;
/// What a tap can carry at most: an IP packet and the Ethernet header before it. Each network device is
/// announced with it, since a driver keeps what it was told at first for ever.
pub const MAX_MTU: u16 = u16::MAX - 14;
/// How many an engine may add to a VM after its boot without having said so before: a network or
/// two, and a service mesh's.
pub const SPARE_INTERFACES: u8 = 2;
