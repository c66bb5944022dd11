//! The MP table (Intel MultiProcessor Specification 1.4): which processors and interrupt lines
//! there are. A guest without ACPI learns them from here.

use super::layout::{
    IO_APIC_ADDRESS, LOCAL_APIC_ADDRESS, MMIO_FIRST_IRQ, MP_TABLE_ADDRESS, MP_TABLE_BYTES,
};

const POINTER_BYTES: usize = 16;
const HEADER_BYTES: usize = 44;
const PROCESSOR_ENTRY_BYTES: usize = 20;
const SPEC_REVISION: u8 = 4;
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
const ISA_BUS: u8 = 0;
const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;
const INTERRUPT: u8 = 0;
const NMI: u8 = 1;
const EXTERNAL: u8 = 3;
const ALL_LOCAL_APICS: u8 = 0xff;
/// The PC's own lines and those of the virtio-mmio windows: the IOAPIC has 24.
const IRQS: u8 = 24;

/// The table for this many processors, at [`MP_TABLE_ADDRESS`].
#[must_use]
pub fn build(vcpus: u8) -> Vec<u8> {
    let (entries, count) = entries(vcpus);
    let mut table = pointer();
    table.extend(header(entries.len(), count));
    table.extend(entries);
    let length = (table.len() - POINTER_BYTES) as u64;
    debug_assert!(length + POINTER_BYTES as u64 <= MP_TABLE_BYTES);
    debug_assert!(MMIO_FIRST_IRQ < u32::from(IRQS));
    seal(&mut table[POINTER_BYTES..], 7);
    table
}

/// The floating pointer by which a kernel finds the table.
fn pointer() -> Vec<u8> {
    let mut bytes = vec![0; POINTER_BYTES];
    bytes[0..4].copy_from_slice(b"_MP_");
    let table = MP_TABLE_ADDRESS as u32 + POINTER_BYTES as u32;
    bytes[4..8].copy_from_slice(&table.to_le_bytes());
    bytes[8] = 1;
    bytes[9] = SPEC_REVISION;
    seal(&mut bytes, 10);
    bytes
}

fn header(entries_bytes: usize, count: u16) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[0..4].copy_from_slice(b"PCMP");
    bytes[4..6].copy_from_slice(&((HEADER_BYTES + entries_bytes) as u16).to_le_bytes());
    bytes[6] = SPEC_REVISION;
    bytes[8..16].copy_from_slice(b"COFFERDM");
    bytes[16..28].copy_from_slice(b"MICROVM     ");
    bytes[34..36].copy_from_slice(&count.to_le_bytes());
    bytes[36..40].copy_from_slice(&LOCAL_APIC_ADDRESS.to_le_bytes());
    bytes
}

fn entries(vcpus: u8) -> (Vec<u8>, u16) {
    let mut bytes = Vec::new();
    for id in 0..vcpus {
        bytes.extend(processor(id));
    }
    let io_apic_id = vcpus;
    bytes.extend([1, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    bytes.extend([2, io_apic_id, IO_APIC_VERSION, ENABLED]);
    bytes.extend(IO_APIC_ADDRESS.to_le_bytes());
    for irq in 0..IRQS {
        bytes.extend([3, INTERRUPT, 0, 0, ISA_BUS, irq, io_apic_id, irq]);
    }
    bytes.extend([4, EXTERNAL, 0, 0, ISA_BUS, 0, 0, 0]);
    bytes.extend([4, NMI, 0, 0, ISA_BUS, 0, ALL_LOCAL_APICS, 1]);
    (bytes, u16::from(vcpus) + 2 + u16::from(IRQS) + 2)
}

fn processor(id: u8) -> [u8; PROCESSOR_ENTRY_BYTES] {
    let mut entry = [0; PROCESSOR_ENTRY_BYTES];
    entry[1] = id;
    entry[2] = LOCAL_APIC_VERSION;
    entry[3] = if id == 0 { ENABLED | BOOT_PROCESSOR } else { ENABLED };
    // Family 6 and the features APIC and FPU: the kernel takes what CPUID says.
    entry[4..8].copy_from_slice(&0x600_u32.to_le_bytes());
    entry[8..12].copy_from_slice(&0x201_u32.to_le_bytes());
    entry
}

/// Sets the checksum at `position`, so that the bytes sum to zero.
fn seal(bytes: &mut [u8], position: usize) {
    bytes[position] = 0;
    bytes[position] = sum(bytes).wrapping_neg();
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use cofferdam_protocol::bounds::MAX_VCPUS;

    use super::*;

    #[test]
    fn both_checksums_are_right_for_every_number_of_processors() {
        for vcpus in 1..=MAX_VCPUS {
            let table = build(vcpus);
            assert_eq!(sum(&table[..POINTER_BYTES]), 0);
            assert_eq!(sum(&table[POINTER_BYTES..]), 0);
            assert!(table.len() as u64 <= MP_TABLE_BYTES, "{vcpus}: {} bytes", table.len());
        }
    }

    #[test]
    fn the_table_says_its_own_length_and_number_of_entries() {
        let table = &build(3)[POINTER_BYTES..];
        assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
        assert_eq!(u16::from_le_bytes([table[34], table[35]]), 3 + 1 + 1 + 24 + 2);
    }

    #[test]
    fn only_the_first_processor_boots() {
        let entries = &build(2)[POINTER_BYTES + HEADER_BYTES..];
        assert_eq!((entries[1], entries[3]), (0, ENABLED | BOOT_PROCESSOR));
        assert_eq!((entries[21], entries[23]), (1, ENABLED));
    }
}
