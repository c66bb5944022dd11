//! Where everything lies in guest-physical memory: pure numbers.
//!
//! ```text
//!  0x0000_0500  GDT                      0x0000_7000  boot parameters ("zero page")
//!  0x0000_9000  three page tables        0x0002_0000  command line
//!  0x0009_fc00  MP table                 0x0010_0000  the rest of low memory: kernel where its
//!                                                     headers say, initramfs at the end
//!  0xc000_0000  end of low memory at the latest
//!  0xd000_0000  virtio-mmio windows      0xfec0_0000  IOAPIC, local APICs, KVM's own pages
//!  0x1_0000_0000  high memory; above it, from the next block on, room for memory that comes later
//! ```

use std::ops::Range;

use super::hot_memory::BLOCK_BYTES;

/// The page size of x86-64.
pub const PAGE_BYTES: u64 = 4096;
/// The size of a huge page.
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// The boot global descriptor table.
pub const GDT_ADDRESS: u64 = 0x500;
/// Linux's boot parameters, one page.
pub const BOOT_PARAMETERS_ADDRESS: u64 = 0x7000;
/// The top-level page table; the two below it follow.
pub const PAGE_TABLES_ADDRESS: u64 = 0x9000;
/// The kernel's command line.
pub const COMMAND_LINE_ADDRESS: u64 = 0x2_0000;
/// Linux for x86-64 takes at most 2048 bytes of command line, the final zero with them.
pub const MAX_COMMAND_LINE_BYTES: usize = 2048;
/// The MP table, in the last KiB of conventional memory, where a kernel looks for it.
pub const MP_TABLE_ADDRESS: u64 = 0x9_fc00;
/// Its room.
pub const MP_TABLE_BYTES: u64 = 0x400;
/// Above the region of the PC's own devices.
pub const KERNEL_MIN_ADDRESS: u64 = 0x10_0000;

/// Low memory ends here at the latest.
pub const LOW_MEMORY_LIMIT: u64 = 0xc000_0000;
/// High memory begins here.
pub const HIGH_MEMORY_ADDRESS: u64 = 1 << 32;

/// The first virtio-mmio window.
pub const MMIO_ADDRESS: u64 = 0xd000_0000;
/// The size of each window.
pub const MMIO_WINDOW_BYTES: u64 = 0x1000;
/// The interrupt of the first virtio-mmio device; 0 to 4 are the PC's own (4 is the serial port).
pub const MMIO_FIRST_IRQ: u32 = 5;

/// The IOAPIC's registers, as KVM emulates it.
pub const IO_APIC_ADDRESS: u32 = 0xfec0_0000;
/// The local APICs' registers.
pub const LOCAL_APIC_ADDRESS: u32 = 0xfee0_0000;
/// Three pages that KVM needs for real mode on Intel.
pub const KVM_TSS_ADDRESS: usize = 0xfffb_d000;
/// One page, likewise.
pub const KVM_IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// The first serial port.
pub const SERIAL_PORT: u16 = 0x3f8;
/// The interrupt of the first serial port.
pub const SERIAL_IRQ: u32 = 4;

/// The guest's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLayout {
    bytes: u64,
}

impl MemoryLayout {
    /// The layout of a guest with this much memory.
    #[must_use]
    pub const fn of_mib(mib: u32) -> Self {
        Self { bytes: (mib as u64) << 20 }
    }

    /// The end of low memory.
    #[must_use]
    pub fn low_end(self) -> u64 {
        self.bytes.min(LOW_MEMORY_LIMIT)
    }

    /// The ranges of RAM: one, or two around the hole for devices.
    #[must_use]
    pub fn ranges(self) -> Vec<Range<u64>> {
        let low = self.low_end();
        let high = self.bytes - low;
        let ranges = [0..low, HIGH_MEMORY_ADDRESS..HIGH_MEMORY_ADDRESS + high];
        ranges.into_iter().filter(|range| !range.is_empty()).collect()
    }

    /// Where memory that comes later begins: above all other, where a block of it may be.
    #[must_use]
    pub fn hot_start(self) -> u64 {
        (HIGH_MEMORY_ADDRESS + self.bytes - self.low_end()).next_multiple_of(BLOCK_BYTES)
    }

    /// What the kernel may use, as the memory map tells it: RAM without the MP table and the PC's
    /// device region.
    #[must_use]
    pub fn usable(self) -> Vec<Range<u64>> {
        let mut ranges = vec![0..MP_TABLE_ADDRESS, KERNEL_MIN_ADDRESS..self.low_end()];
        ranges.extend(self.ranges().into_iter().skip(1));
        ranges
    }
}

/// Rounds up to whole pages.
#[must_use]
pub const fn page_ceil(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use cofferdam_protocol::bounds::{MAX_MEMORY_MIB, MIN_MEMORY_MIB};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ram_is_all_there_and_never_under_a_device(mib in MIN_MEMORY_MIB..=MAX_MEMORY_MIB) {
            let ranges = MemoryLayout::of_mib(mib).ranges();
            let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            prop_assert_eq!(bytes, u64::from(mib) << 20);
            for range in ranges {
                prop_assert!(range.end <= LOW_MEMORY_LIMIT || range.start >= HIGH_MEMORY_ADDRESS);
            }
        }

        #[test]
        fn usable_ranges_ascend_and_lie_in_ram(mib in MIN_MEMORY_MIB..=MAX_MEMORY_MIB) {
            let layout = MemoryLayout::of_mib(mib);
            let mut end = 0;
            for range in layout.usable() {
                prop_assert!(range.start >= end && range.start < range.end);
                let inside = |ram: &Range<u64>| ram.start <= range.start && range.end <= ram.end;
                prop_assert!(layout.ranges().iter().any(inside));
                end = range.end;
            }
        }
    }

    #[test]
    fn what_the_monitor_writes_at_boot_does_not_overlap() {
        let pieces = [
            (GDT_ADDRESS, 0x100),
            (BOOT_PARAMETERS_ADDRESS, PAGE_BYTES),
            (PAGE_TABLES_ADDRESS, 3 * PAGE_BYTES),
            (COMMAND_LINE_ADDRESS, MAX_COMMAND_LINE_BYTES as u64),
            (MP_TABLE_ADDRESS, MP_TABLE_BYTES),
            (KERNEL_MIN_ADDRESS, 0),
        ];
        assert!(pieces.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
    }
}
