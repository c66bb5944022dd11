//! Numbered things that the guest names by their number: inodes and open files.
//!
//! A number is used again after its thing is gone, with another generation, so that the tables
//! grow with what is in use and not with what was.

/// A table of things; the first number given is 1.
#[derive(Debug)]
pub(super) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u64,
    thing: Option<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A table as it was: each thing with its number and generation. `None` when a number is over
    /// `most`, or there twice.
    pub(super) fn restored(
        things: impl IntoIterator<Item = (u64, u64, T)>,
        most: usize,
    ) -> Option<Self> {
        let mut table = Self::default();
        let mut latest = 0;
        for (number, generation, thing) in things {
            let index = index(number).filter(|index| *index < most)?;
            let slots = table.slots.len().max(index + 1);
            table.slots.resize_with(slots, || Slot { generation: 0, thing: None });
            let slot = table.slots.get_mut(index).filter(|slot| slot.thing.is_none())?;
            (slot.generation, slot.thing) = (generation, Some(thing));
            latest = latest.max(generation);
        }
        for (index, slot) in table.slots.iter_mut().enumerate().rev() {
            if slot.thing.is_none() {
                // What had the number before is not known: nothing had it in this generation.
                slot.generation = latest;
                table.free.push(index);
            }
        }
        Some(table)
    }

    /// Everything in it, with its number and generation.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64, &T)> {
        (1..).zip(&self.slots).filter_map(|(number, slot): (u64, _)| {
            slot.thing.as_ref().map(|thing| (number, slot.generation, thing))
        })
    }

    /// Puts a thing in, and says its number.
    pub(super) fn insert(&mut self, thing: T) -> u64 {
        let index = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(index) {
            Some(slot) => {
                slot.generation += 1;
                slot.thing = Some(thing);
            }
            None => self.slots.push(Slot { generation: 0, thing: Some(thing) }),
        }
        index as u64 + 1
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.slots.get(index(number)?)?.thing.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.slots.get_mut(index(number)?)?.thing.as_mut()
    }

    /// How many things had this number before.
    pub(super) fn generation(&self, number: u64) -> u64 {
        index(number).and_then(|index| self.slots.get(index)).map_or(0, |slot| slot.generation)
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let index = index(number)?;
        let thing = self.slots.get_mut(index)?.thing.take()?;
        self.free.push(index);
        Some(thing)
    }
}

fn index(number: u64) -> Option<usize> {
    usize::try_from(number.checked_sub(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_with_one_and_come_again_in_another_generation() {
        let mut table = Table::default();
        assert_eq!(table.insert('a'), 1);
        assert_eq!(table.insert('b'), 2);
        assert_eq!(table.remove(1), Some('a'));
        assert_eq!(table.remove(1), None);
        assert_eq!(table.insert('c'), 1);
        assert_eq!((table.generation(1), table.generation(2)), (1, 0));
        assert_eq!((table.get(1), table.get(0), table.get(u64::MAX)), (Some(&'c'), None, None));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_restored_table_gives_only_numbers_that_are_free() {
        let things = [(4, 2, 'd'), (2, 7, 'b')];
        let mut table = Table::restored(things, 4).unwrap();
        let mut listed: Vec<_> = table.iter().map(|(n, g, t)| (n, g, *t)).collect();
        listed.sort_unstable();
        assert_eq!(listed, [(2, 7, 'b'), (4, 2, 'd')]);
        assert_eq!((table.insert('x'), table.insert('y'), table.insert('z')), (1, 3, 5));
        assert!(table.generation(1) > 7);
    }

    #[test]
    fn a_number_beyond_the_bound_or_twice_is_refused() {
        assert!(Table::restored([(5, 0, 'a')], 4).is_none());
        assert!(Table::restored([(0, 0, 'a')], 4).is_none());
        assert!(Table::restored([(1, 0, 'a'), (1, 0, 'b')], 4).is_none());
    }
}
