//! Arbitrary bytes, read as instructions.

pub(super) struct Script<'b> {
    left: &'b [u8],
}

impl<'b> Script<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { left: bytes }
    }

    /// The next byte; none at the end.
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, left) = self.left.split_first()?;
        self.left = left;
        Some(*first)
    }

    /// The next four bytes as a number; zeros behind the end.
    pub(super) fn word(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// The next bytes; zeros behind the end.
    pub(super) fn fill(&mut self, to: &mut [u8]) {
        to.fill_with(|| self.byte().unwrap_or(0));
    }
}
