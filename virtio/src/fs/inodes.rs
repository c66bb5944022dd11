//! The files that the guest knows: an `O_PATH` descriptor for each, counted as the guest counts.
//!
//! Hostile: every number and every count. A number that stands for nothing is `EBADF`; a count
//! that is too high takes what there is.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use fuse_backend_rs::api::filesystem::ROOT_ID;
use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use super::attributes::{self, FileKey, Version};
use super::table::Table;

/// A file that the guest knows.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) file: OwnedFd,
    pub(super) key: FileKey,
    pub(super) kind: FileType,
    /// What the file was like when the guest opened it last.
    pub(super) opened: Option<Version>,
    /// It is below a bind mount, not the root file system.
    pub(super) shared: bool,
    /// It may have a set-user-ID or set-group-ID bit.
    pub(super) set_id: bool,
    pub(super) lookups: u64,
    /// It was gone when the machine was restored: the guest knows a number that stands for nothing.
    pub(super) gone: bool,
}

/// All files that the guest knows.
#[derive(Debug, Default)]
pub(super) struct Inodes {
    table: Table<Inode>,
    numbers: HashMap<FileKey, u64>,
}

impl Inodes {
    /// Knows nothing but the root.
    pub(super) fn rooted(root: OwnedFd) -> io::Result<Self> {
        let mut inodes = Self::default();
        let seen = attributes::look(&root)?;
        // The first number is the root's.
        inodes.remember(root, &seen, false);
        Ok(inodes)
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// All of them as they were, the root among them. `None` when a number is over `most`, or
    /// there twice.
    pub(super) fn restored(inodes: Vec<(u64, u64, Inode)>, most: usize) -> Option<Self> {
        let known = inodes.iter().filter(|(_, _, inode)| !inode.gone);
        let numbers = known.map(|(number, _, inode)| (inode.key, *number)).collect();
        Some(Self { table: Table::restored(inodes, most)?, numbers })
    }

    /// Everything with its number and generation.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64, &Inode)> {
        self.table.iter()
    }

    pub(super) fn get(&self, number: u64) -> io::Result<&Inode> {
        match self.table.get(number) {
            Some(inode) if inode.gone => Err(Errno::STALE.into()),
            found => found.ok_or_else(|| Errno::BADF.into()),
        }
    }

    pub(super) fn get_mut(&mut self, number: u64) -> io::Result<&mut Inode> {
        match self.table.get_mut(number) {
            Some(inode) if inode.gone => Err(Errno::STALE.into()),
            found => found.ok_or_else(|| Errno::BADF.into()),
        }
    }

    pub(super) fn generation(&self, number: u64) -> u64 {
        self.table.generation(number)
    }

    /// Whether the guest knows a file.
    pub(super) fn knows(&self, seen: &Statx) -> bool {
        self.numbers.contains_key(&attributes::key(seen))
    }

    /// The guest looked a file up: counts it, and says its number.
    pub(super) fn remember(&mut self, file: OwnedFd, seen: &Statx, shared: bool) -> u64 {
        let key = attributes::key(seen);
        let set_id = u32::from(seen.stx_mode) & attributes::SET_ID != 0;
        if let Some(number) = self.numbers.get(&key).copied()
            && let Some(known) = self.table.get_mut(number)
        {
            known.set_id = set_id;
            known.lookups = known.lookups.saturating_add(1);
            return number;
        }
        let kind = FileType::from_raw_mode(seen.stx_mode.into());
        let inode =
            Inode { file, key, kind, opened: None, shared, set_id, lookups: 1, gone: false };
        let number = self.table.insert(inode);
        self.numbers.insert(key, number);
        number
    }

    /// The guest looked a file up that it knows.
    pub(super) fn count(&mut self, number: u64) {
        if let Some(known) = self.table.get_mut(number) {
            known.lookups = known.lookups.saturating_add(1);
        }
    }

    /// The guest forgets so many of its look-ups; true when these were the last. The root is never
    /// forgotten.
    pub(super) fn forget(&mut self, number: u64, count: u64) -> bool {
        if number == ROOT_ID {
            return false;
        }
        let Some(inode) = self.table.get_mut(number) else { return false };
        inode.lookups = inode.lookups.saturating_sub(count);
        if inode.lookups > 0 {
            return false;
        }
        if let Some(inode) = self.table.remove(number) {
            self.numbers.remove(&inode.key);
        }
        true
    }
}
