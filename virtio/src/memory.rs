//! The one place that names the types of `vm-memory`, so that moving to its next generation is a
//! change of this file.

pub use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, ReadVolatile, VolatileSlice,
    WriteVolatile,
};

/// The guest's memory as this process has it mapped. Nothing tracks dirty pages.
pub type GuestRam = vm_memory::GuestMemoryMmap<()>;
