//! How large a virtual machine that runs is, may become, and has to be for other limits.

use cofferdam_protocol::bounds::{MAX_GROWING_MEMORY_MIB, MEMORY_BLOCK_MIB};
use serde::{Deserialize, Serialize};

use super::shape::VmShape;

/// What a running machine has that comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSize {
    /// Blocks of [`MEMORY_BLOCK_MIB`] beside the memory that it began with.
    pub memory_blocks: u32,
    /// Processors in use.
    pub vcpus: u8,
}

impl MachineSize {
    /// At least as large as both.
    #[must_use]
    pub fn larger_of(self, other: Self) -> Self {
        Self {
            memory_blocks: self.memory_blocks.max(other.memory_blocks),
            vcpus: self.vcpus.max(other.vcpus),
        }
    }
}

/// A virtual machine that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningVm {
    /// The processors that it began with.
    pub vcpus: u8,
    /// To how many they can grow.
    pub vcpus_max: u8,
    /// The memory that it began with.
    pub memory_mib: u32,
    /// By how many blocks it can grow.
    pub memory_blocks_max: u32,
    /// What of the memory is for guest kernel and agent.
    pub overhead_mib: u32,
    /// As it is now.
    pub size: MachineSize,
}

impl RunningVm {
    /// A machine of this shape that has just been started.
    #[must_use]
    pub const fn at_birth(shape: &VmShape, overhead_mib: u32) -> Self {
        Self {
            vcpus: shape.vcpus,
            vcpus_max: shape.vcpus_max,
            memory_mib: shape.memory_mib,
            memory_blocks_max: shape.memory_blocks_max,
            overhead_mib,
            size: MachineSize { memory_blocks: 0, vcpus: shape.vcpus },
        }
    }

    /// Whether it is larger than it began.
    #[must_use]
    pub fn has_grown(&self) -> bool {
        self.size.memory_blocks > 0 || self.size.vcpus > self.vcpus
    }

    /// All memory of the guest, at this size.
    #[must_use]
    pub fn memory_at(&self, size: MachineSize) -> u64 {
        u64::from(self.memory_mib) + u64::from(size.memory_blocks) * u64::from(MEMORY_BLOCK_MIB)
    }

    /// The largest limit of a container that it can ever have, in MiB.
    #[must_use]
    pub fn room_mib(&self) -> u64 {
        let most = MachineSize { memory_blocks: self.memory_blocks_max, vcpus: self.vcpus_max };
        let left = self.memory_at(most).saturating_sub(u64::from(self.overhead_mib));
        // The largest limit that is no more than this with a whole 64th of it.
        (left * 64 + 63) / 65
    }

    /// The fewest blocks with which there is room for a limit of this many MiB.
    #[must_use]
    pub fn blocks_for(&self, limit_mib: u64) -> Option<u32> {
        let wanted = memory_for(limit_mib, self.overhead_mib);
        let missing = wanted.saturating_sub(u64::from(self.memory_mib));
        let blocks = u32::try_from(missing.div_ceil(u64::from(MEMORY_BLOCK_MIB))).ok()?;
        (blocks <= self.memory_blocks_max).then_some(blocks)
    }
}

/// The guest memory for a limit of this many MiB.
pub(super) fn memory_for(limit_mib: u64, overhead_mib: u32) -> u64 {
    // A guest kernel describes each 4 KiB page in 64 bytes.
    limit_mib + limit_mib / 64 + u64::from(overhead_mib)
}

/// To how many times the memory of its beginning a machine grows, at most.
///
/// What comes later holds what a kernel can move: programs' memory and cached files. All else it
/// keeps in the memory of the beginning, the descriptors of what comes too, 2 MiB for each block.
/// A guest of 129 MiB had 42 MiB left of that before it grew, 22 at nine times its size, 6 at
/// seventeen, and was killed on the way to twenty-five.
pub(super) const MOST_GROWTH: u32 = 9;

/// By how many blocks a machine can grow.
pub(super) fn blocks_between(memory_mib: u32, max_memory_mib: u32) -> u32 {
    if memory_mib > MAX_GROWING_MEMORY_MIB {
        return 0;
    }
    let most = max_memory_mib.min(memory_mib.saturating_mul(MOST_GROWTH));
    most.saturating_sub(memory_mib) / MEMORY_BLOCK_MIB
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: RunningVm = RunningVm {
        vcpus: 2,
        vcpus_max: 4,
        memory_mib: 178,
        memory_blocks_max: 3,
        overhead_mib: 48,
        size: MachineSize { memory_blocks: 0, vcpus: 2 },
    };

    #[test]
    fn the_limit_that_a_machine_was_made_for_takes_no_block_and_one_more_mib_takes_one() {
        assert_eq!(
            [1, 128, 129, 255, 256].map(|mib| VM.blocks_for(mib)),
            [0, 0, 1, 1, 2].map(Some)
        );
    }

    #[test]
    fn the_room_is_the_largest_limit_that_fits() {
        let room = VM.room_mib();
        assert_eq!(VM.blocks_for(room), Some(3));
        assert_eq!(VM.blocks_for(room + 1), None);
        let without = RunningVm { memory_blocks_max: 0, ..VM };
        assert_eq!(without.room_mib(), 128);
        let small = |left: u32| RunningVm { memory_mib: 48 + left, ..without }.room_mib();
        assert_eq!([64, 65, 97, 130].map(small), [63, 64, 96, 128]);
    }

    #[test]
    fn a_machine_with_large_blocks_does_not_grow() {
        assert_eq!(blocks_between(MAX_GROWING_MEMORY_MIB + 1, 1 << 20), 0);
        assert_eq!(blocks_between(256, 1024), 6);
        assert_eq!(blocks_between(256, 128), 0);
    }

    #[test]
    fn a_small_machine_on_a_large_host_does_not_outgrow_the_memory_of_its_beginning() {
        const HOST: u32 = 64 << 10;
        assert_eq!([129, 256, 1024].map(|mib| blocks_between(mib, HOST)), [8, 16, 64]);
        let grown = RunningVm { memory_mib: 129, memory_blocks_max: 8, overhead_mib: 64, ..VM };
        // A container of 64 MiB can have 1 GiB, and not much more.
        assert_eq!(grown.room_mib(), 1073);
    }
}
