//! Figures of this process, from its own `/proc/self/smaps`: the only source that tells which
//! pages of a private file mapping are resident here.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

/// A mapping is described in about a KiB, and there are some dozens.
const MAX_SMAPS_BYTES: usize = 1 << 20;

/// Resident memory in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// The monitor's own.
    pub monitor_kib: u64,
    /// The guest's.
    pub guest_kib: u64,
}

/// Where the figures come from: opened before the jail, which has no `/proc`.
#[derive(Debug)]
pub struct ResidentSource {
    smaps: File,
    guest: Vec<Range<u64>>,
}

impl ResidentSource {
    /// `smaps` is this process's own; `guest` says where guest memory lies in it.
    #[must_use]
    pub fn new(smaps: File, guest: Vec<Range<u64>>) -> Self {
        Self { smaps, guest }
    }

    /// Reads the figures.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self) -> std::io::Result<Resident> {
        let mut text = Vec::new();
        let mut chunk = vec![0; 16 << 10];
        while text.len() < MAX_SMAPS_BYTES {
            match self.smaps.read_at(&mut chunk, text.len() as u64)? {
                0 => break,
                read => text.extend_from_slice(&chunk[..read]),
            }
        }
        Ok(parse(&String::from_utf8_lossy(&text), &self.guest))
    }
}

/// Sums the `Rss:` lines of each mapping, by whose it is.
fn parse(smaps: &str, guest: &[Range<u64>]) -> Resident {
    let mut resident = Resident::default();
    let mut in_guest = false;
    for line in smaps.lines() {
        if let Some(kib) = line.strip_prefix("Rss:") {
            let kib = kib.trim().trim_end_matches(" kB").parse().unwrap_or(0);
            let sum = if in_guest { &mut resident.guest_kib } else { &mut resident.monitor_kib };
            *sum += kib;
        } else if let Some(start) = mapping_start(line) {
            in_guest = guest.iter().any(|range| range.contains(&start));
        }
    }
    resident
}

/// The first address of a mapping, when a line is the head of one: `55d0-55d1 r-xp …`.
fn mapping_start(line: &str) -> Option<u64> {
    let (range, _) = line.split_once(' ')?;
    let (start, _) = range.split_once('-')?;
    u64::from_str_radix(start, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00401000 r-xp 00000000 00:00 1 /vmm
Size:                  4 kB
Rss:                   4 kB
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Rss:                2048 kB
7f0010000000-7f0020000000 rw-p 00000000 00:00 0
Rss:                   8 kB
";

    #[test]
    fn each_mapping_counts_for_whose_it_is() {
        let guest = 0x7f00_0000_0000..0x7f00_1000_0000;
        let resident = parse(SMAPS, &[guest]);
        assert_eq!(resident, Resident { monitor_kib: 12, guest_kib: 2048 });
    }

    #[test]
    fn this_process_has_resident_memory() {
        let source = ResidentSource::new(File::open("/proc/self/smaps").unwrap(), vec![]);
        let resident = source.read().unwrap();
        assert!(resident.monitor_kib > 100);
        assert_eq!(resident.guest_kib, 0);
    }
}
