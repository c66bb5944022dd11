//! Memory that comes while the guest runs, and goes again: a range above all other that is mapped
//! from the beginning and costs nothing until the guest may use it.
//!
//! A block is the guest's once KVM knows it. The devices could write to the range before that, if
//! a driver names it in a queue: into pages of this process's own that nobody else reads.

use std::sync::Arc;

use cofferdam_protocol::bounds::MEMORY_BLOCK_MIB;
use vm_memory::{GuestAddress, GuestMemory as _};

use super::kvm::{KvmError, Vm};
use super::layout::MemoryLayout;
use super::memory::Memory;
use super::sys;

/// The size of a block.
pub const BLOCK_BYTES: u64 = (MEMORY_BLOCK_MIB as u64) << 20;

/// Why the guest has not the blocks asked for.
#[derive(Debug, thiserror::Error)]
pub enum HotMemoryError {
    /// More than there is room for.
    #[error("{wanted} blocks of memory: this machine has room for {room}")]
    Room {
        /// Asked for.
        wanted: u32,
        /// At most.
        room: u32,
    },
    /// KVM.
    #[error("KVM cannot serve")]
    Kvm(#[from] KvmError),
}

/// The range, with the blocks that the guest has of it.
#[derive(Debug)]
pub struct HotMemory {
    vm: Arc<Vm>,
    memory: Arc<Memory>,
    start: u64,
    first_slot: u32,
    room: u32,
    blocks: u32,
}

impl HotMemory {
    /// None of it is the guest's yet.
    #[must_use]
    pub fn new(vm: Arc<Vm>, memory: Arc<Memory>, layout: MemoryLayout) -> Self {
        let start = layout.hot_start();
        let region = memory.find_region(GuestAddress(start));
        let bytes = region.map_or(0, vm_memory::GuestMemoryRegion::len);
        Self {
            vm,
            memory,
            start,
            first_slot: layout.ranges().len() as u32,
            room: u32::try_from(bytes / BLOCK_BYTES).unwrap_or(u32::MAX),
            blocks: 0,
        }
    }

    /// Gives the guest so many blocks, or takes the rest away with all that is in them; the address
    /// of the first.
    ///
    /// # Errors
    /// When there is no room, or KVM refuses. What was done before stays.
    pub fn set_blocks(&mut self, wanted: u32) -> Result<u64, HotMemoryError> {
        if wanted > self.room {
            return Err(HotMemoryError::Room { wanted, room: self.room });
        }
        while self.blocks < wanted {
            self.vm.add_memory(self.slot(), self.top(), BLOCK_BYTES, &self.memory)?;
            self.blocks += 1;
        }
        while self.blocks > wanted {
            self.blocks -= 1;
            self.vm.remove_memory(self.slot())?;
            // Pages that cannot be given back are given back with the machine.
            let _ = sys::discard(&self.memory, self.top(), BLOCK_BYTES);
        }
        Ok(self.start)
    }

    /// Of the block above those that the guest has.
    fn slot(&self) -> u32 {
        self.first_slot + self.blocks
    }

    fn top(&self) -> u64 {
        self.start + u64::from(self.blocks) * BLOCK_BYTES
    }
}
