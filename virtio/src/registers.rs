//! Register pages as the guest reads them: memory that a hypervisor maps read-only into the guest,
//! so that a read costs no exit. Interrupt handlers begin with one, and a boot is full of them.
//!
//! What is read is always there before it is asked for: the words that depend on others are written
//! when those others are. Writes leave the guest as ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The length of the register page.
pub const REGISTER_BYTES: u64 = 0x1000;
pub(crate) const MAGIC_VALUE: u64 = 0x000;
pub(crate) const VERSION: u64 = 0x004;
pub(crate) const INTERRUPT_STATUS: u64 = 0x060;
pub(crate) const STATUS: u64 = 0x070;
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"virt");
pub(crate) const MMIO_VERSION: u32 = 2;

const WORD_BYTES: u64 = size_of::<u32>() as u64;
const WORDS: usize = (REGISTER_BYTES / WORD_BYTES) as usize;

#[derive(Debug)]
#[repr(C, align(4096))]
struct Page([AtomicU32; WORDS]);

/// Register pages that follow one another in memory, each of a placeholder at first: what the
/// driver leaves alone (section 4.2.2), and may look at again.
#[derive(Clone, Debug)]
pub struct RegisterPages(Arc<[Page]>);

impl RegisterPages {
    /// So many.
    #[must_use]
    pub fn placeholders(count: usize) -> Self {
        let pages = Self((0..count).map(|_| Page([const { AtomicU32::new(0) }; WORDS])).collect());
        pages.iter().for_each(|page| page.become_placeholder());
        pages
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = RegisterPage> {
        let pages = self.clone();
        (0..self.0.len()).map(move |index| RegisterPage { pages: pages.clone(), index })
    }

    /// Where the first begins in this process. They stay there until the last handle is gone.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }

    /// How long all of them are.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.len() as u64 * REGISTER_BYTES
    }
}

/// One register page.
#[derive(Clone, Debug)]
pub struct RegisterPage {
    pages: RegisterPages,
    index: usize,
}

impl RegisterPage {
    /// One that no guest reads but by exits.
    #[must_use]
    pub fn unmapped() -> Self {
        Self { pages: RegisterPages::placeholders(1), index: 0 }
    }

    /// The register at an offset that is one: a multiple of four within the page.
    pub(crate) fn register(&self, offset: u64) -> &AtomicU32 {
        &self.pages.0[self.index].0[(offset / WORD_BYTES) as usize % WORDS]
    }

    pub(crate) fn put(&self, offset: u64, value: u32) {
        self.register(offset).store(value, Ordering::SeqCst);
    }

    /// Nothing is behind it any more, or not yet.
    pub(crate) fn become_placeholder(&self) {
        for offset in (0..REGISTER_BYTES).step_by(size_of::<u32>()) {
            self.put(offset, 0);
        }
        self.put(VERSION, MMIO_VERSION);
        self.put(MAGIC_VALUE, MAGIC);
    }

    /// Puts bytes at an offset that is a multiple of four; what does not fit is not there.
    pub(crate) fn put_bytes(&self, offset: u64, bytes: &[u8]) {
        let room = usize::try_from(REGISTER_BYTES - offset).unwrap_or(0);
        for (at, chunk) in
            (offset..).step_by(size_of::<u32>()).zip(bytes[..bytes.len().min(room)].chunks(4))
        {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            self.put(at, u32::from_le_bytes(word));
        }
    }

    /// What the guest reads, when it does so by an exit.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let word = self.register(at).load(Ordering::SeqCst).to_le_bytes();
            *byte = if at < REGISTER_BYTES { word[(at % WORD_BYTES) as usize] } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_one_another_and_begin_as_placeholders() {
        let pages = RegisterPages::placeholders(2);
        assert_eq!(pages.as_ptr().align_offset(REGISTER_BYTES as usize), 0);
        assert_eq!(pages.bytes(), 2 * REGISTER_BYTES);
        let [first, second]: [RegisterPage; 2] =
            pages.iter().collect::<Vec<_>>().try_into().unwrap();
        let distance = second.register(0).as_ptr() as usize - first.register(0).as_ptr() as usize;
        assert_eq!(distance as u64, REGISTER_BYTES);
        let mut head = [0xff; 12];
        second.read(MAGIC_VALUE, &mut head);
        assert_eq!(&head, b"virt\x02\0\0\0\0\0\0\0");
    }

    #[test]
    fn bytes_are_read_back_at_any_width_and_nothing_lies_beyond() {
        let page = RegisterPage::unmapped();
        page.put_bytes(0xffc, b"abcdefgh");
        let mut data = [0xff; 3];
        page.read(0xffd, &mut data);
        assert_eq!(&data, b"bcd");
        page.read(0xfff, &mut data);
        assert_eq!(&data, b"d\0\0");
    }
}
