//! Virtio devices over guest memory: the virtio-mmio transport, file sharing, sockets, network, disks, entropy.
//!
//! ```text
//!   vCPU threads                    worker threads
//!  ┌───────────────┐  hand-over   ┌──────────────────────────────┐
//!  │ MmioTransport │ ───────────▶ │ Vsock, Rng   (devices thread)│──▶ host descriptors
//!  │  device half  │   queues,    │ Net          (devices thread)│──▶ taps
//!  │               │   interrupt  │ FsServer     (fs thread)     │──▶ shared trees
//!  │               │              │ Blk          (disks thread)  │──▶ block devices
//!  └───────────────┘              └──────────────────────────────┘
//! ```
//!
//! What this is not: it knows no KVM (the caller wires event descriptors to it), no jail (the
//! caller builds the namespaces that the workers live in) and no protocol of ours above vsock.
//!
//! Hostile: every register access, every descriptor chain, every byte in guest memory, at any
//! moment, from several vCPUs at once. A device answers by failing the request, by resetting the
//! connection, or by asking the driver to reset the device; never by panicking and never by
//! allocating more than a named bound.

pub mod blk;
pub mod device;
pub mod figures;

pub mod fs;
pub mod handover;
pub mod interrupt;
pub mod memory;
pub mod mmio;
pub mod net;
pub mod poll;
mod registers;
pub mod rng;
pub mod saved;
pub mod vsock;

mod chain;
pub mod queue;
mod slices;
mod sys;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
