//! Bytes from the guest that the host has not taken yet. Bounded by the connection's window: who
//! appends has checked it.

use crate::slices::Slices;

#[derive(Debug, Default)]
pub(super) struct Pending {
    bytes: Vec<u8>,
    consumed: usize,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// What waits, the oldest first.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.consumed..).unwrap_or_default()
    }

    /// Copies from guest memory.
    pub(super) fn append(&mut self, data: &Slices<'_>) {
        if self.consumed > 0 {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
        }
        for slice in data.iter() {
            let start = self.bytes.len();
            self.bytes.resize(start + slice.len(), 0);
            if let Some(room) = self.bytes.get_mut(start..) {
                slice.copy_to(room);
            }
        }
    }

    /// Drops the oldest bytes. An idle connection keeps no memory.
    pub(super) fn consume(&mut self, count: usize) {
        self.consumed += count;
        if self.consumed >= self.bytes.len() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
