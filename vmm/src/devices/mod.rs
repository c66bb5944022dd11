//! The devices thread: one event loop for vsock, entropy, network, names, forwarded connections, the control socket and the
//! standard streams. Disks have a thread of their own.
//!
//! Hostile: what the guest sends (handled in `cofferdam-virtio`, but for the lifeline's frames)
//! and, less so, what clients of the control socket send. No handler blocks, but the one that takes a disk
//! away: it waits some seconds for whoever serves it.

pub mod checkpoint;
pub mod client;
pub mod control;
pub mod disks;
pub mod event_loop;
pub mod forwards;
mod held;
pub mod lifeline;
pub mod names;
pub mod network;
pub mod signals;
mod spare;
pub mod statistics;
pub mod streams;
pub mod wiring;
