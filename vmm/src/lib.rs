//! The monitor of Cofferdam: one virtual machine in one jailed process.
//!
//! ```text
//!   main      reads the VmConfig, builds the machine and the jail, then waits: reports the boot,
//!             records the exit
//!   devices   one event loop: vsock, entropy, network, control socket, standard streams
//!   fs        the file server, in a mount namespace of the shares alone
//!   vcpu-N    the guest
//! ```
//!
//! What this is not: it knows nothing of OCI, opens no host path, and decides nothing that the
//! runtime has not decided.
//!
//! Hostile: everything that comes from the guest, through guest memory, registers and vsock. Two
//! walls stand around it: the device code that takes nothing on trust, and the jail around the
//! process for when that fails.

pub mod arguments;
pub mod boot;
pub mod console;
pub mod crew;
pub mod descriptors;
pub mod devices;
pub mod figures;
pub mod file_server;
pub mod happening;
pub mod jail;
mod locking;
pub mod log;
pub mod machine;
pub mod parking;
pub mod probe;
pub mod report;
pub mod slots;
pub mod snapshot;
mod sys;
pub mod vcpu;
pub mod watch;
