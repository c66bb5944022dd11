//! The boot processor as Linux's 64-bit entry wants it: long mode, flat segments, the first GiB
//! mapped to itself.

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};

use super::layout::{
    BOOT_PARAMETERS_ADDRESS, GDT_ADDRESS, HUGE_PAGE_BYTES, PAGE_BYTES, PAGE_TABLES_ADDRESS,
};
use super::memory::{self, Memory, MemoryError};

const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_NUMERIC_ERROR: u64 = 1 << 5;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const CR0_MONITOR_COPROCESSOR: u64 = 1 << 1;
const CR4_FXSAVE: u64 = 1 << 9;
const CR4_SSE_EXCEPTIONS: u64 = 1 << 10;
const CR4_XSAVE: u64 = 1 << 18;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// The bit that is always set.
const FLAGS: u64 = 2;

const PRESENT_WRITABLE: u64 = 3;
const HUGE: u64 = 1 << 7;
const TABLE_ENTRIES: u64 = 512;

/// The selectors that Linux's boot protocol asks for: code, data, task state.
pub const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;
/// Null, unused, code (64-bit, execute and read), data (read and write), task state.
const GDT: [u64; 5] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff];

const MSR_MTRR_DEFAULT_TYPE: u32 = 0x2ff;
/// Memory type ranges are on, and everything is write-back: there is no other range.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_FAST_STRINGS: u64 = 1;

/// Writes the descriptor table and page tables that the boot processor starts with.
///
/// # Errors
/// When low memory does not hold them: the layout is wrong.
pub fn write_tables(memory: &Memory) -> Result<(), MemoryError> {
    memory::write(memory, GDT_ADDRESS, &bytes_of(&GDT))?;
    let directory_pointers = PAGE_TABLES_ADDRESS + PAGE_BYTES;
    let directory = directory_pointers + PAGE_BYTES;
    memory::write(
        memory,
        PAGE_TABLES_ADDRESS,
        &bytes_of(&[directory_pointers | PRESENT_WRITABLE]),
    )?;
    memory::write(memory, directory_pointers, &bytes_of(&[directory | PRESENT_WRITABLE]))?;
    let huge_pages: Vec<u64> = (0..TABLE_ENTRIES)
        .map(|index| (index * HUGE_PAGE_BYTES) | PRESENT_WRITABLE | HUGE)
        .collect();
    memory::write(memory, directory, &bytes_of(&huge_pages))
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The general registers at the kernel's entry point.
#[must_use]
pub fn general(entry: u64) -> kvm_regs {
    kvm_regs { rflags: FLAGS, rip: entry, rsi: BOOT_PARAMETERS_ADDRESS, ..Default::default() }
}

/// The system registers, over those that KVM gave.
pub fn set_long_mode(registers: &mut kvm_sregs) {
    let code = segment(CODE_SELECTOR, 0xb, 1, 0);
    let data = segment(DATA_SELECTOR, 0x3, 0, 1);
    registers.cs = code;
    (registers.ds, registers.es, registers.ss) = (data, data, data);
    (registers.fs, registers.gs) = (data, data);
    registers.tr = kvm_segment { s: 0, ..segment(TASK_SELECTOR, 0xb, 0, 0) };
    registers.gdt.base = GDT_ADDRESS;
    registers.gdt.limit = (size_of_val(&GDT) - 1) as u16;
    registers.idt.base = 0;
    registers.idt.limit = 0;
    registers.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE | CR0_NUMERIC_ERROR | CR0_PAGING;
    registers.cr3 = PAGE_TABLES_ADDRESS;
    registers.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
    registers.efer = EFER_LONG_MODE;
}

/// What a kernel turns on early: SSE and `XSAVE`.
pub fn set_kernel_features(registers: &mut kvm_sregs) {
    registers.cr0 |= CR0_MONITOR_COPROCESSOR;
    registers.cr4 |= CR4_FXSAVE | CR4_SSE_EXCEPTIONS | CR4_XSAVE;
}

fn segment(selector: u16, type_: u8, l: u8, db: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db,
        s: 1,
        l,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// The model-specific registers that a PC's firmware would have set.
///
/// # Errors
/// Never in fact: two entries are far below the bound of the list.
pub fn firmware_msrs() -> Result<Msrs, vmm_sys_util::fam::Error> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    Msrs::from_entries(&[
        entry(MSR_MISC_ENABLE, MISC_FAST_STRINGS),
        entry(MSR_MTRR_DEFAULT_TYPE, MTRR_ENABLED_WRITE_BACK),
    ])
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes as _, GuestAddress};

    use super::super::layout::MemoryLayout;
    use super::*;

    #[test]
    fn every_address_of_the_first_gib_is_mapped_to_itself() {
        let memory = memory::allocate(MemoryLayout::of_mib(48), 0).unwrap();
        write_tables(&memory).unwrap();
        let read = |address: u64| -> u64 { memory.read_obj(GuestAddress(address)).unwrap() };
        for address in [0, 0x10_0000, 0x100_0000, 0x3fff_ffff_u64] {
            let pointers = read(PAGE_TABLES_ADDRESS) & !0xfff;
            let directory = read(pointers) & !0xfff;
            let entry = read(directory + address / HUGE_PAGE_BYTES * 8);
            assert_eq!(entry & !0x1f_ffff, address & !0x1f_ffff);
            assert_eq!(entry & 0xff, PRESENT_WRITABLE | HUGE);
        }
    }

    #[test]
    fn the_segments_are_those_of_the_table() {
        let mut registers = kvm_sregs::default();
        set_long_mode(&mut registers);
        for (segment, selector) in [(registers.cs, CODE_SELECTOR), (registers.ds, DATA_SELECTOR)] {
            let descriptor = GDT[usize::from(selector / 8)];
            assert_eq!(u64::from(segment.type_), descriptor >> 40 & 0xf);
            assert_eq!(u64::from(segment.l), descriptor >> 53 & 1);
            assert_eq!(u64::from(segment.db), descriptor >> 54 & 1);
        }
    }
}
