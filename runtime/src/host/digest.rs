//! Checksums of files.

use std::fs::File;
use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// A file's SHA-256 in hexadecimal, from where it is read on.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(file: &mut File) -> io::Result<String> {
    const CHUNK: usize = 64 << 10;
    let mut digest = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            length => digest.update(chunk.get(..length).unwrap_or_default()),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_the_known_one() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"abc").unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&mut file).unwrap(), expected);
    }
}
