//! A `newc` cpio archive that is the same, byte for byte, for the same content: no times, inode
//! numbers in order, everything root's.

use std::io::{self, Write};

use cpio::newc::{Builder, ModeFileType, trailer};

/// An initramfs in the making.
pub(crate) struct Archive<W> {
    writer: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub(crate) fn new(writer: W) -> Self {
        Self { writer, entries: 0 }
    }

    /// Adds a folder. A folder comes before what is in it.
    pub(crate) fn folder(&mut self, path: &str) -> io::Result<()> {
        let entry = self.entry(path, 0o755, ModeFileType::Directory).nlink(2);
        entry.write(&mut self.writer, 0).finish().map(drop)
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "over 4 GiB in a cpio"))?;
        let mut file =
            self.entry(path, permissions, ModeFileType::Regular).write(&mut self.writer, size);
        file.write_all(content)?;
        file.finish().map(drop)
    }

    /// Adds a character device.
    pub(crate) fn character_device(
        &mut self,
        path: &str,
        permissions: u32,
        (major, minor): (u32, u32),
    ) -> io::Result<()> {
        let entry = self.entry(path, permissions, ModeFileType::Char);
        entry.rdev_major(major).rdev_minor(minor).write(&mut self.writer, 0).finish().map(drop)
    }

    /// Writes the end mark and gives the writer back.
    pub(crate) fn finish(self) -> io::Result<W> {
        trailer(self.writer)
    }

    fn entry(&mut self, path: &str, permissions: u32, kind: ModeFileType) -> Builder {
        self.entries += 1;
        Builder::new(path).ino(self.entries).mode(permissions).nlink(1).set_mode_file_type(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.folder("dev").unwrap();
        archive.character_device("dev/console", 0o600, (5, 1)).unwrap();
        archive.file("init", 0o755, b"content").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        assert_eq!(sample(), sample());
    }

    #[test]
    fn entries_come_back_with_their_kind_and_permissions() {
        let bytes = sample();
        let mut rest = &bytes[..];
        let mut seen = Vec::new();
        loop {
            let reader = cpio::newc::Reader::new(rest).unwrap();
            let entry = reader.entry().clone();
            rest = reader.finish().unwrap();
            if entry.is_trailer() {
                break;
            }
            seen.push((entry.name().to_owned(), entry.mode(), entry.mtime(), entry.rdev_minor()));
        }
        let expected = [
            ("dev".to_owned(), 0o040_755, 0, 0),
            ("dev/console".to_owned(), 0o020_600, 0, 1),
            ("init".to_owned(), 0o100_755, 0, 0),
        ];
        assert_eq!(seen, expected);
    }
}
