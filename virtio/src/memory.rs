//! The one place that names the types of `vm-memory`, so that moving to its next generation is a
//! change of this file.

pub use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, ReadVolatile, VolatileMemory,
    VolatileSlice, WriteVolatile,
};

use vm_memory::MemoryRegionAddress;

/// The guest's memory as this process has it mapped. Nothing tracks dirty pages.
pub type GuestRam = vm_memory::GuestMemoryMmap<()>;

/// What lies at an address, if all of it is in one region.
///
/// What `GuestRam` says of the same is prepared for pieces that lie in several regions, and for
/// errors; that takes ten times as long, for each descriptor of each frame.
pub(crate) fn slice_at(
    memory: &GuestRam,
    address: GuestAddress,
    length: usize,
) -> Option<VolatileSlice<'_>> {
    memory.iter().find_map(|region| {
        let offset = address.0.checked_sub(region.start_addr().0)?;
        let inside = offset < region.len();
        inside.then(|| region.get_slice(MemoryRegionAddress(offset), length).ok())?
    })
}

/// Does something with what lies at an address, slice by slice: one for each region. `None` where it
/// is not all in memory, or where that says so.
pub(crate) fn each_slice<'m>(
    memory: &'m GuestRam,
    address: GuestAddress,
    length: usize,
    mut each: impl FnMut(VolatileSlice<'m>) -> Option<()>,
) -> Option<()> {
    match slice_at(memory, address, length) {
        Some(whole) => each(whole),
        None => memory.get_slices(address, length).try_for_each(|slice| each(slice.ok()?)),
    }
}

/// Reads what lies at an address; `None` where it is not all in memory.
pub(crate) fn read_at(memory: &GuestRam, address: GuestAddress, into: &mut [u8]) -> Option<()> {
    let (length, mut done) = (into.len(), 0);
    each_slice(memory, address, length, |slice| {
        done += slice.copy_to(into.get_mut(done..)?);
        Some(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_lies_in_one_region_or_is_none() {
        let ranges = [(GuestAddress(0x1000), 0x1000), (GuestAddress(0x2000), 0x1000)];
        let memory = GuestRam::from_ranges(&ranges).unwrap();
        let length = |address, length| {
            slice_at(&memory, GuestAddress(address), length).map(|slice| slice.len())
        };
        assert_eq!(length(0x1000, 0x1000), Some(0x1000));
        assert_eq!(length(0x2ff0, 0x10), Some(0x10));
        assert_eq!(length(0x1ff0, 0x11), None);
        assert_eq!(length(0x2ff0, 0x11), None);
        assert_eq!(length(0xfff, 1), None);
        assert_eq!(length(0x3000, 0), None);
        assert_eq!(length(u64::MAX, usize::MAX), None);
        let mut lengths = Vec::new();
        let mut count = |address, length| {
            each_slice(&memory, GuestAddress(address), length, |slice| {
                lengths.push(slice.len());
                Some(())
            })
        };
        assert_eq!(count(0x1ff0, 0x20), Some(()));
        assert_eq!(count(0x2ff0, 0x20), None);
        assert_eq!(lengths, [0x10, 0x10, 0x10]);
        let there = slice_at(&memory, GuestAddress(0x2010), 2).unwrap();
        there.write_obj(7_u8, 1).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x2011)).unwrap(), 7);
    }
}
