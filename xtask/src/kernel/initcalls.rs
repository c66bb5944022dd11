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
    use super::*;

    #[test]
    fn an_entry_is_told_by_its_whole_function() {
        let entry = "__initcall__kmod_slub__619_7314_slab_late_init7";
        assert!(is_entry_of(entry, "slab_late_init"));
        assert!(!is_entry_of(entry, "late_init"));
        assert!(!is_entry_of(entry, "slab_late"));
        assert!(!is_entry_of("slab_late_init", "slab_late_init"));
        assert!(is_entry_of("__initcall__kmod_x__1_2_set_up7s", "set_up"));
    }
}
