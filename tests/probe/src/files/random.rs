//! Random operations on a file, compared with a model of it in memory; the same ones in each run.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::{Failure, Outcome, same};
use crate::sys::Mapping;

const OPERATIONS: usize = 2000;
const MOST_BYTES: usize = 256 << 10;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// xorshift: enough to be without a pattern.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }
}

struct Pair<'a> {
    path: &'a Path,
    file: File,
    model: Vec<u8>,
    numbers: Numbers,
}

pub(super) fn random_operations(folder: &Path) -> Outcome {
    let path = folder.join("file");
    File::create(&path)?;
    let (file, model) = (open(&path)?, Vec::new());
    let mut pair = Pair { path: &path, file, model, numbers: Numbers(SEED) };
    for operation in 0..OPERATIONS {
        let at = |failure: Failure| Failure(format!("operation {operation}: {}", failure.0));
        pair.operate().map_err(at)?;
        if operation % 100 == 99 {
            pair.compare().map_err(at)?;
        }
    }
    Ok(())
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

impl Pair<'_> {
    fn operate(&mut self) -> Outcome {
        match self.numbers.below(11) {
            0..=2 => self.write(),
            3 | 4 => self.read(),
            5 => self.resize(),
            6 => self.punch(),
            7 => self.write_mapped(),
            8 => self.read_mapped(),
            9 => self.reserve(),
            _ => self.reopen(),
        }
    }

    /// A part of what there is, not empty but for an empty file.
    fn part(&mut self) -> (usize, usize) {
        let offset = self.numbers.below(self.model.len());
        let length = 1 + self.numbers.below((self.model.len() - offset).min(64 << 10));
        (offset, length.min(self.model.len() - offset))
    }

    fn fresh_bytes(&mut self, length: usize) -> Vec<u8> {
        let first = self.numbers.below(256);
        (0..length).map(|index| (first + index * 7) as u8).collect()
    }

    fn store(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model[offset..end].copy_from_slice(bytes);
    }

    fn write(&mut self) -> Outcome {
        let offset = self.numbers.below(MOST_BYTES - 1);
        let length = 1 + self.numbers.below((MOST_BYTES - offset).min(64 << 10));
        let bytes = self.fresh_bytes(length.min(MOST_BYTES - offset));
        self.file.write_all_at(&bytes, offset as u64)?;
        self.store(offset, &bytes);
        Ok(())
    }

    fn read(&mut self) -> Outcome {
        let (offset, length) = self.part();
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset as u64)?;
        same("a read is the model's", bytes == self.model[offset..offset + length], true)
    }

    fn resize(&mut self) -> Outcome {
        let length = self.numbers.below(MOST_BYTES);
        self.file.set_len(length as u64)?;
        self.model.resize(length, 0);
        Ok(())
    }

    fn punch(&mut self) -> Outcome {
        let (offset, length) = self.part();
        if length == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, flags, offset as u64, length as u64)?;
        self.model[offset..offset + length].fill(0);
        Ok(())
    }

    fn write_mapped(&mut self) -> Outcome {
        let (offset, length) = self.part();
        if length == 0 {
            return Ok(());
        }
        let bytes = self.fresh_bytes(length);
        let mapping = Mapping::shared(&self.file, self.model.len())?;
        mapping.write(offset, &bytes);
        self.store(offset, &bytes);
        if self.numbers.below(4) == 0 { Ok(mapping.sync()?) } else { Ok(()) }
    }

    fn read_mapped(&mut self) -> Outcome {
        let (offset, length) = self.part();
        if length == 0 {
            return Ok(());
        }
        let mapping = Mapping::shared(&self.file, self.model.len())?;
        let bytes = mapping.read(offset, length);
        same("a mapping is the model's", bytes == self.model[offset..offset + length], true)
    }

    fn reserve(&mut self) -> Outcome {
        let offset = self.numbers.below(MOST_BYTES / 2);
        let length = 1 + self.numbers.below(MOST_BYTES / 2);
        fallocate(&self.file, FallocateFlags::empty(), offset as u64, length as u64)?;
        if self.model.len() < offset + length {
            self.model.resize(offset + length, 0);
        }
        Ok(())
    }

    fn reopen(&mut self) -> Outcome {
        if self.numbers.below(3) == 0 {
            self.file.sync_all()?;
        }
        self.file = open(self.path)?;
        Ok(())
    }

    fn compare(&self) -> Outcome {
        same("the length", self.file.metadata()?.len(), self.model.len() as u64)?;
        same("the whole is the model's", fs::read(self.path)? == self.model, true)
    }
}
