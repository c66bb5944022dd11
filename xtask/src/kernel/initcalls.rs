//! Takes initialisation functions out of a linked kernel.
//!
//! The kernel calls what a table of offsets leads to, each counted from its own place
//! (`include/linux/init.h`). An entry that is not wanted is led to a function that does nothing. The
//! parameter `initcall_blacklist=` does the same at each boot, and looks up a name for every entry.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

/// Returns 0.
const NOTHING: &str = "paravirt_ret0";
const ENTRY_BYTES: u64 = 4;

/// Where an entry is in the file, and what it is to be.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    offset: u64,
    entry: [u8; ENTRY_BYTES as usize],
}

/// Leaves out functions by their names; fails if there is no such function, or more than one.
pub(super) fn leave_out(functions: &[&str], vmlinux: &Path) -> Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(vmlinux)
        .with_context(|| format!("Cannot open {}", vmlinux.display()))?;
    let image = std::fs::read(vmlinux)?;
    let elf = ElfFile64::parse(&*image).context("vmlinux is no ELF file")?;
    for function in functions {
        let change = plan(&elf, function)
            .with_context(|| format!("Cannot take {function} out of the kernel"))?;
        file.write_all_at(&change.entry, change.offset).context("Cannot write vmlinux")?;
    }
    Ok(())
}

fn plan(elf: &ElfFile64<'_>, function: &str) -> Result<Change> {
    let entries: Vec<u64> = elf
        .symbols()
        .filter(|symbol| symbol.name().is_ok_and(|name| is_entry_of(name, function)))
        .map(|symbol| symbol.address())
        .collect();
    ensure!(entries.len() == 1, "It has {} entries in the table", entries.len());
    let entry = entries[0];
    let nothing = elf.symbol_by_name(NOTHING).context("There is no function that does nothing")?;
    let distance = nothing.address().wrapping_sub(entry).cast_signed();
    Ok(Change { offset: offset_of(elf, entry)?, entry: i32::try_from(distance)?.to_le_bytes() })
}

/// `__initcall__kmod_slub__619_7314_slab_late_init7`: file, two numbers, function, level.
fn is_entry_of(symbol: &str, function: &str) -> bool {
    let without_level = symbol.trim_end_matches(|c: char| c.is_ascii_digit() || c == 's');
    let Some(before) = without_level.strip_suffix(function) else { return false };
    // Behind the numbers' last underscore there is nothing more.
    let mut parts = before.rsplit('_').take(3).skip(1);
    before.starts_with("__initcall__kmod_")
        && before.ends_with('_')
        && parts.all(|part| part.parse::<u32>().is_ok())
}

fn offset_of(elf: &ElfFile64<'_>, address: u64) -> Result<u64> {
    elf.sections()
        .filter_map(|section| {
            let inside = address.checked_sub(section.address())?;
            let (offset, length) = section.file_range()?;
            (inside + ENTRY_BYTES <= length).then_some(offset + inside)
        })
        .next()
        .context("The table is in no section of the file")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const OURS: &str = "__initcall__kmod_slub__619_7314_slab_late_init7";
    const ANOTHERS: &str = "__initcall__kmod_ext4__1_2_ext4_init6";

    /// A linked program with a table of two entries.
    fn linked(folder: &Path) -> std::path::PathBuf {
        let (source, program) = (folder.join("table.S"), folder.join("vmlinux"));
        let text = format!(
            ".globl _start, {NOTHING}\n\
             .text\n_start: slab_late_init: nop\next4_init: nop\n{NOTHING}: xor %eax, %eax; ret\n\
             .section .init.data, \"aw\"\n.quad 0\n\
             {ANOTHERS}: .long ext4_init - .\n{OURS}: .long slab_late_init - .\n"
        );
        std::fs::write(&source, text).unwrap();
        let mut link = Command::new("gcc");
        link.args(["-nostdlib", "-static", "-no-pie", "-o"]).args([&program, &source]);
        assert!(link.status().unwrap().success());
        program
    }

    /// Which function an entry leads to.
    fn target(program: &Path, entry: &str) -> String {
        let image = std::fs::read(program).unwrap();
        let elf = ElfFile64::<object::Endianness>::parse(&*image).unwrap();
        let address = elf.symbol_by_name(entry).unwrap().address();
        let offset = usize::try_from(offset_of(&elf, address).unwrap()).unwrap();
        let distance = i32::from_le_bytes(*image[offset..].first_chunk().unwrap());
        let function = address.wrapping_add_signed(distance.into());
        let mut named = elf.symbols().filter(|symbol| symbol.address() == function);
        let named = named.find(|symbol| !symbol.name().unwrap().starts_with('_'));
        named.unwrap().name().unwrap().to_owned()
    }

    #[test]
    fn an_entry_is_led_to_what_does_nothing_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let program = linked(folder.path());
        assert_eq!(target(&program, OURS), "slab_late_init");
        leave_out(&["slab_late_init"], &program).unwrap();
        assert_eq!(target(&program, OURS), NOTHING);
        assert_eq!(target(&program, ANOTHERS), "ext4_init");
    }

    #[test]
    fn what_is_not_in_the_table_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let program = linked(folder.path());
        let before = std::fs::read(&program).unwrap();
        let refused = format!("{:#}", leave_out(&["late_init"], &program).unwrap_err());
        assert_eq!(
            refused,
            "Cannot take late_init out of the kernel: It has 0 entries in the table"
        );
        assert_eq!(std::fs::read(&program).unwrap(), before);
    }

    #[test]
    fn an_entry_is_told_by_its_whole_function() {
        assert!(is_entry_of(OURS, "slab_late_init"));
        assert!(!is_entry_of(OURS, "late_init"));
        assert!(!is_entry_of(OURS, "slab_late"));
        assert!(!is_entry_of("slab_late_init", "slab_late_init"));
        assert!(is_entry_of("__initcall__kmod_x__1_2_set_up7s", "set_up"));
    }
}
