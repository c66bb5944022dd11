//! Linux's 64-bit boot protocol: what the kernel finds in its "zero page" (`boot_params`).

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::ByteValued as _;

use super::layout::{BOOT_PARAMETERS_ADDRESS, COMMAND_LINE_ADDRESS, MemoryLayout};
use super::memory::{self, Memory, MemoryError};

const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// A boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
const KERNEL_ALIGNMENT: u32 = 0x100_0000;
const E820_RAM: u32 = 1;

/// Where the initramfs lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitramfsPlace {
    /// Its first byte; below 4 GiB.
    pub address: u32,
    /// Its length.
    pub bytes: u32,
}

/// Writes the boot parameters.
///
/// # Errors
/// When low memory does not hold them: the layout is wrong.
pub fn write(
    memory: &Memory,
    layout: MemoryLayout,
    command_line_bytes: u32,
    initramfs: InitramfsPlace,
) -> Result<(), MemoryError> {
    let parameters = build(layout, command_line_bytes, initramfs);
    memory::write(memory, BOOT_PARAMETERS_ADDRESS, parameters.as_slice())
}

fn build(layout: MemoryLayout, command_line_bytes: u32, initramfs: InitramfsPlace) -> boot_params {
    let mut parameters = boot_params::default();
    let header = &mut parameters.hdr;
    header.boot_flag = BOOT_FLAG;
    header.header = HEADER_MAGIC;
    header.type_of_loader = LOADER_UNDEFINED;
    header.kernel_alignment = KERNEL_ALIGNMENT;
    header.cmd_line_ptr = COMMAND_LINE_ADDRESS as u32;
    header.cmdline_size = command_line_bytes;
    header.ramdisk_image = initramfs.address;
    header.ramdisk_size = initramfs.bytes;
    let usable = layout.usable();
    for (entry, range) in parameters.e820_table.iter_mut().zip(&usable) {
        *entry =
            boot_e820_entry { addr: range.start, size: range.end - range.start, type_: E820_RAM };
    }
    parameters.e820_entries = usable.len() as u8;
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_is_the_layouts() {
        let initramfs = InitramfsPlace { address: 0x1000, bytes: 5 };
        let parameters = build(MemoryLayout::of_mib(4096), 7, initramfs);
        assert_eq!(parameters.e820_entries, 3);
        let (address, size) = (parameters.e820_table[2].addr, parameters.e820_table[2].size);
        assert_eq!((address, size), (1 << 32, 1 << 30));
        let (image, bytes) = (parameters.hdr.ramdisk_image, parameters.hdr.ramdisk_size);
        assert_eq!((image, bytes), (0x1000, 5));
    }
}
