//! A chain of descriptors (virtio 1.2, sections 2.7.5 and 2.7.5.3), as its driver made it.
//!
//! Hostile: all of it, at any moment. A chain ends where it stops being one: after as many descriptors
//! as its table has, which ends loops; at a place that is not in the table; at a table that is not in
//! memory or in another one; beyond 4 GiB. What its descriptors say is not looked at here.

use crate::memory::{GuestAddress, GuestRam, VolatileMemory as _, VolatileSlice, slice_at};

/// How long one is in its table.
pub(crate) const DESCRIPTOR_BYTES: usize = 16;

const HAS_NEXT: u16 = 1;
const IS_WRITTEN: u16 = 1 << 1;
const IS_TABLE: u16 = 1 << 2;

/// A piece of the driver's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// Where the piece is.
    pub(crate) const fn addr(&self) -> GuestAddress {
        GuestAddress(self.address)
    }

    /// How long it is.
    pub(crate) const fn len(&self) -> u32 {
        self.length
    }

    /// It is for the device to write.
    const fn is_written(&self) -> bool {
        self.flags & IS_WRITTEN != 0
    }

    /// The descriptor at a place of a table, if the table has one there.
    fn read(table: &VolatileSlice<'_>, place: u16) -> Option<Self> {
        let offset = usize::from(place) * DESCRIPTOR_BYTES;
        // As numbers of its own: the table of a queue is aligned, one elsewhere need not be.
        let [address, rest] = table.get_ref::<[u64; 2]>(offset).ok()?.load();
        let rest = u64::from_le(rest);
        Some(Self {
            address: u64::from_le(address),
            length: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        })
    }
}

/// A chain that a driver made available.
#[derive(Clone, Debug)]
pub(crate) struct Chain<'m> {
    memory: &'m GuestRam,
    table: VolatileSlice<'m>,
    head: u16,
    next: u16,
    /// Descriptors that it may still have.
    left: u16,
    bytes: u32,
    is_elsewhere: bool,
}

impl<'m> Chain<'m> {
    /// The one that begins at a place of a queue's table of `size` descriptors.
    pub(crate) fn new(
        memory: &'m GuestRam,
        table: VolatileSlice<'m>,
        size: u16,
        head: u16,
    ) -> Self {
        Self { memory, table, head, next: head, left: size, bytes: 0, is_elsewhere: false }
    }

    /// Which one it is.
    pub(crate) const fn head_index(&self) -> u16 {
        self.head
    }

    /// What the device may read.
    pub(crate) fn readable(self) -> impl Iterator<Item = Descriptor> {
        self.filter(|descriptor| !descriptor.is_written())
    }

    /// What the device may write.
    pub(crate) fn writable(self) -> impl Iterator<Item = Descriptor> {
        self.filter(Descriptor::is_written)
    }

    /// Goes on in the table that a descriptor leads to.
    fn enter(&mut self, descriptor: Descriptor) -> Option<()> {
        let bytes = usize::try_from(descriptor.length).ok()?;
        if self.is_elsewhere || !bytes.is_multiple_of(DESCRIPTOR_BYTES) {
            return None;
        }
        self.left = u16::try_from(bytes / DESCRIPTOR_BYTES).ok()?;
        self.table = slice_at(self.memory, descriptor.addr(), bytes)?;
        self.next = 0;
        self.is_elsewhere = true;
        Some(())
    }

    fn step(&mut self) -> Option<Descriptor> {
        let descriptor = Descriptor::read(&self.table, self.next)?;
        if descriptor.flags & IS_TABLE != 0 {
            self.enter(descriptor)?;
            return self.next();
        }
        self.bytes = self.bytes.checked_add(descriptor.length)?;
        let goes_on = descriptor.flags & HAS_NEXT != 0;
        self.left = if goes_on { self.left - 1 } else { 0 };
        self.next = descriptor.next;
        Some(descriptor)
    }
}

impl Iterator for Chain<'_> {
    type Item = Descriptor;

    fn next(&mut self) -> Option<Descriptor> {
        let step = if self.left > 0 { self.step() } else { None };
        if step.is_none() {
            self.left = 0;
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Bytes as _;

    const TABLE: u64 = 0x1000;
    const ELSEWHERE: u64 = 0x2000;

    /// Address, length, flags, next.
    type Fields = (u64, u32, u16, u16);

    /// A memory with descriptors: the table's address, the place in it.
    fn memory(descriptors: &[(u64, u16, Fields)]) -> GuestRam {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        for (table, place, (address, length, flags, next)) in descriptors {
            let at = table + u64::from(*place) * DESCRIPTOR_BYTES as u64;
            memory.write_obj(*address, GuestAddress(at)).unwrap();
            memory.write_obj(*length, GuestAddress(at + 8)).unwrap();
            memory.write_obj(*flags, GuestAddress(at + 12)).unwrap();
            memory.write_obj(*next, GuestAddress(at + 14)).unwrap();
        }
        memory
    }

    fn chain(memory: &GuestRam, head: u16) -> Chain<'_> {
        let table = slice_at(memory, GuestAddress(TABLE), 4 * DESCRIPTOR_BYTES).unwrap();
        Chain::new(memory, table, 4, head)
    }

    fn lengths(chain: Chain<'_>) -> Vec<u32> {
        chain.map(|descriptor| descriptor.len()).collect()
    }

    #[test]
    fn descriptors_follow_one_another_to_the_one_without_a_next() {
        let memory = memory(&[
            (TABLE, 1, (0x3000, 10, HAS_NEXT, 3)),
            (TABLE, 3, (0x4000, 20, HAS_NEXT | IS_WRITTEN, 0)),
            (TABLE, 0, (0x5000, 30, IS_WRITTEN, 2)),
        ]);
        assert_eq!(lengths(chain(&memory, 1)), [10, 20, 30]);
        let read: Vec<_> = chain(&memory, 1).readable().map(|one| one.addr().0).collect();
        let written: Vec<_> = chain(&memory, 1).writable().map(|one| one.addr().0).collect();
        assert_eq!((read, written), (vec![0x3000], vec![0x4000, 0x5000]));
    }

    #[test]
    fn a_loop_ends_after_as_many_as_the_table_has() {
        let memory = memory(&[(TABLE, 2, (0x3000, 1, HAS_NEXT, 2))]);
        assert_eq!(lengths(chain(&memory, 2)), [1; 4]);
    }

    #[test]
    fn a_chain_goes_on_in_one_other_table_wherever_that_begins() {
        let odd = ELSEWHERE + 1;
        let memory = memory(&[
            (TABLE, 0, (0x3000, 1, HAS_NEXT, 1)),
            (TABLE, 1, (odd, 32, IS_TABLE, 0)),
            (odd, 0, (0x4000, 2, HAS_NEXT, 1)),
            (odd, 1, (0x5000, 3, 0, 0)),
        ]);
        assert_eq!(lengths(chain(&memory, 0)), [1, 2, 3]);
    }

    #[test]
    fn a_chain_ends_where_it_stops_being_one() {
        let ends = |second: Fields| {
            let memory = memory(&[
                (TABLE, 0, (0x3000, 7, HAS_NEXT, 1)),
                (TABLE, 1, second),
                (ELSEWHERE, 0, (ELSEWHERE, 16, IS_TABLE, 0)),
            ]);
            lengths(chain(&memory, 0))
        };
        // A place that is not in the table; then tables that are none.
        assert_eq!(ends((0x3000, 8, HAS_NEXT, 4)), [7, 8]);
        assert_eq!(ends((ELSEWHERE, 17, IS_TABLE, 0)), [7]);
        assert_eq!(ends((ELSEWHERE, 0, IS_TABLE, 0)), [7]);
        assert_eq!(ends((0xffff_fff0, 16, IS_TABLE, 0)), [7]);
        assert_eq!(ends((u64::MAX, 16, IS_TABLE, 0)), [7]);
        assert_eq!(ends((ELSEWHERE, 1 << 20, IS_TABLE, 0)), [7]);
        // In a table elsewhere there is none.
        assert_eq!(ends((ELSEWHERE, 16, IS_TABLE, 0)), [7]);
        // 4 GiB.
        assert_eq!(ends((0x3000, u32::MAX, 0, 0)), [7]);
    }
}
