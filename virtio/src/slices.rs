//! A descriptor chain as lists of slices of guest memory.
//!
//! Hostile: every descriptor. A chain that loops ends after as many descriptors as its queue has;
//! one that leaves memory is refused whole; no more than [`MAX_SLICES`] are taken from any.

use crate::chain::{Chain, Descriptor};
use crate::memory::{GuestRam, VolatileSlice, each_slice};

/// A Linux driver has a header and at most 17 pages of payload in one vsock packet. More slices
/// than these would make one request arbitrarily dear.
pub(crate) const MAX_SLICES: usize = 64;

/// The chain names memory that is not there, or too many pieces of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidChain;

/// What one chain holds in one direction.
#[derive(Clone, Default)]
pub(crate) struct Slices<'m> {
    slices: Vec<VolatileSlice<'m>>,
}

impl<'m> Slices<'m> {
    /// What the driver lets the device read.
    pub(crate) fn readable(memory: &'m GuestRam, chain: Chain<'m>) -> Result<Self, InvalidChain> {
        Self::collect(memory, chain.readable())
    }

    /// What the driver lets the device write.
    pub(crate) fn writable(memory: &'m GuestRam, chain: Chain<'m>) -> Result<Self, InvalidChain> {
        Self::collect(memory, chain.writable())
    }

    fn collect(
        memory: &'m GuestRam,
        mut descriptors: impl Iterator<Item = Descriptor>,
    ) -> Result<Self, InvalidChain> {
        let mut slices = Vec::with_capacity(4);
        let mut add = |slice| {
            slices.push(slice);
            (slices.len() <= MAX_SLICES).then_some(())
        };
        let added = descriptors.try_for_each(|descriptor| {
            let length = usize::try_from(descriptor.len()).ok()?;
            each_slice(memory, descriptor.addr(), length, &mut add)
        });
        added.map(|()| Self { slices }).ok_or(InvalidChain)
    }

    /// Bytes in all.
    pub(crate) fn len(&self) -> usize {
        // Cannot overflow: the queue ends a chain at 4 GiB.
        self.slices.iter().map(VolatileSlice::len).sum()
    }

    /// Takes `buffer.len()` bytes from the front; false when there are not so many.
    #[must_use]
    pub(crate) fn take(&mut self, buffer: &mut [u8]) -> bool {
        if self.len() < buffer.len() {
            return false;
        }
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let Some(slice) = self.slices.first() else { return false };
            let count = slice.copy_to(rest);
            done += count;
            self.advance(count);
        }
        true
    }

    /// Puts bytes at the front, and moves behind them; false when there is not so much room.
    #[must_use]
    pub(crate) fn put(&mut self, bytes: &[u8]) -> bool {
        if self.len() < bytes.len() {
            return false;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(slice) = self.slices.first() else { return false };
            let (now, later) = rest.split_at(rest.len().min(slice.len()));
            slice.copy_from(now);
            rest = later;
            self.advance(now.len());
        }
        true
    }

    /// The pieces, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &VolatileSlice<'m>> {
        self.slices.iter()
    }

    /// The first piece that is not empty.
    pub(crate) fn front(&self) -> Option<&VolatileSlice<'m>> {
        self.slices.iter().find(|slice| !slice.is_empty())
    }

    /// Drops what lies behind the first `length` bytes.
    pub(crate) fn truncate(&mut self, length: usize) {
        let mut left = length;
        self.slices.retain_mut(|slice| {
            let keep = slice.len().min(left);
            left -= keep;
            match slice.subslice(0, keep) {
                Ok(kept) if keep > 0 => {
                    *slice = kept;
                    true
                }
                _ => false,
            }
        });
    }

    /// Drops the first `count` bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        let mut left = count;
        self.slices.retain_mut(|slice| {
            let gone = slice.len().min(left);
            left -= gone;
            match slice.offset(gone) {
                Ok(rest) if !rest.is_empty() => {
                    *slice = rest;
                    true
                }
                _ => false,
            }
        });
    }
}
