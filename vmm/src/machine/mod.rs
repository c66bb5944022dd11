//! The virtual machine: its memory, what is in it before the first instruction, and KVM's part.
//!
//! What this is not: no devices (they are `cofferdam-virtio`'s), no threads. Everything here runs
//! before the guest does, on the operator's files; the guest's bytes are handled elsewhere.

pub mod boot_params;
pub mod command_line;
pub mod cpuid;
pub mod hot_memory;
pub mod initramfs;
pub mod kernel_image;
pub mod kvm;
pub mod kvm_statistics;
pub mod layout;
pub mod memory;
pub mod memory_file;
pub mod mptable;
pub mod quirks;
pub mod registers;
mod sys;
pub mod vcpu_state;
