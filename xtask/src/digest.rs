//! SHA-256 over the inputs of what the cache holds.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// Names a result by everything that it is made from: each part counts with its length, so that
/// moving a byte from one part to the next gives another name.
#[derive(Default)]
pub(crate) struct Inputs(Sha256);

impl Inputs {
    /// Adds bytes.
    pub(crate) fn add(&mut self, part: impl AsRef<[u8]>) -> &mut Self {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// Adds a file's content.
    pub(crate) fn add_file(&mut self, path: &Path) -> io::Result<&mut Self> {
        let sum = file(path)?;
        Ok(self.add(sum))
    }

    /// The first 16 hexadecimal digits: enough to tell the generations of a cache apart.
    pub(crate) fn name(&self) -> String {
        let mut name = hexadecimal(&self.0.clone().finalize());
        name.truncate(16);
        name
    }
}

/// A file's SHA-256, in hexadecimal.
pub(crate) fn file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            length => hash.update(&buffer[..length]),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_border_between_parts_counts() {
        let one = Inputs::default().add("ab").add("c").name();
        let other = Inputs::default().add("a").add("bc").name();
        assert_ne!(one, other);
    }

    #[test]
    fn a_file_has_the_sum_that_sha256sum_prints() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(
            file(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
