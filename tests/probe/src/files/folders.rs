//! Folders: large ones, places in them, and what is removed while they are read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;

use rustix::fs::{RawDir, SeekFrom, seek};

use super::{Failure, Outcome, same};

const MANY: usize = 10_000;

fn name(number: usize) -> String {
    format!("entry-{number:05}")
}

/// Every name once, however many there are. Who runs the case may have made them: that is faster
/// where each takes a way out of a guest.
pub(super) fn large_folder(folder: &Path) -> Outcome {
    if fs::read_dir(folder)?.next().is_none() {
        for number in 0..MANY {
            File::create(folder.join(name(number)))?;
        }
    }
    let names: Vec<String> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    same("entries", names.len(), MANY)?;
    let distinct: BTreeSet<String> = names.into_iter().collect();
    let expected: BTreeSet<String> = (0..MANY).map(name).collect();
    same("every name is there", distinct == expected, true)?;
    for number in (0..MANY).step_by(100) {
        fs::remove_file(folder.join(name(number)))?;
    }
    same("entries that are left", fs::read_dir(folder)?.count(), MANY - MANY / 100)
}

/// Names with the place after each, from a place on.
fn entries(folder: &File, from: u64) -> Result<Vec<(Vec<u8>, u64)>, Failure> {
    seek(folder, SeekFrom::Start(from))?;
    let mut buffer = [MaybeUninit::uninit(); 1 << 10];
    let mut reader = RawDir::new(folder, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next() {
        let entry = entry?;
        entries.push((entry.file_name().to_bytes().to_vec(), entry.next_entry_cookie()));
    }
    Ok(entries)
}

/// `telldir` and `seekdir`: a place that was told is the same place later.
pub(super) fn places_in_a_folder(folder: &Path) -> Outcome {
    for number in 0..500 {
        File::create(folder.join(name(number)))?;
    }
    let folder = File::open(folder)?;
    let all = entries(&folder, 0)?;
    same("entries, with . and ..", all.len(), 502)?;
    for index in [0, 1, 250, 400, 500] {
        let Some((_, place)) = all.get(index) else { continue };
        let rest = entries(&folder, *place)?;
        same("the rest from a place", rest.as_slice(), all.get(index + 1..).unwrap_or_default())?;
    }
    Ok(())
}

/// What is removed while a folder is read does not hide what is not.
pub(super) fn removed_while_read(folder: &Path) -> Outcome {
    for number in 0..300 {
        File::create(folder.join(name(number)))?;
    }
    let mut seen = 0;
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
        seen += 1;
    }
    same("entries seen", seen, 300)?;
    same("entries left", fs::read_dir(folder)?.count(), 0)?;
    Ok(fs::remove_dir(folder)?)
}
