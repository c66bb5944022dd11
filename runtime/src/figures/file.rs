//! The node's file of figures: made by the first command that has something to note, its cells added
//! to under a lock that is held for some microseconds.
//!
//! A command that is killed between two cells leaves whole numbers. Sums never wrap.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::layout::{Cell, Counts, REMEMBERED, file_bytes, mark};
use super::series::{Counted, Timed};

/// Far longer than anybody holds the lock who is not standing still.
const PATIENCE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(1);

/// Why a figure is not noted, or not known.
#[derive(Debug, thiserror::Error)]
pub enum FigureError {
    /// The file.
    #[error("Cannot {action} the file of figures")]
    Io {
        /// Open, lock, read, write.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Whoever holds the lock stands still.
    #[error("The file of figures has been locked for too long")]
    Busy,
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> FigureError {
    move |source| FigureError::Io { action, source }
}

/// The file, with its lock held.
#[derive(Debug)]
pub struct Figures {
    file: File,
}

impl Figures {
    /// Opens the file and takes its lock. One of another layout, of another version's, begins anew.
    ///
    /// # Errors
    /// When the file system refuses, or somebody else has the lock for too long.
    pub fn open(path: &Path) -> Result<Self, FigureError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let figures = Self { file: options.open(path).map_err(failed("open"))? };
        figures.lock()?;
        if figures.get(Cell::MARK)? != mark() {
            figures.file.set_len(0).map_err(failed("write"))?;
            figures.file.set_len(file_bytes()).map_err(failed("write"))?;
            figures.set(Cell::MARK, mark())?;
        }
        Ok(figures)
    }

    /// What a file holds; a file that is not there holds nothing.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> Result<Counts, FigureError> {
        let mut bytes = vec![0; usize::try_from(file_bytes()).unwrap_or_default()];
        let mut options = OpenOptions::new();
        let read = options.read(true).custom_flags(libc::O_NOFOLLOW).open(path).and_then(|file| {
            // One reading under no lock: each cell is whole, and no two have to agree.
            file.read_at(&mut bytes, 0)
        });
        match read {
            Ok(read) => Ok(Counts::of_bytes(bytes.get(..read).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Counts::default()),
            Err(error) => Err(failed("read")(error)),
        }
    }

    /// Notes how long something took.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn observe(&self, timed: Timed, took: Duration) -> Result<(), FigureError> {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.add(Cell::bucket(timed, microseconds), 1)?;
        self.add(Cell::sum(timed), microseconds)
    }

    /// Counts something.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn count(&self, counted: Counted) -> Result<(), FigureError> {
        self.add(Cell::count(counted), 1)
    }

    /// Remembers a container that was deleted, and forgets the oldest.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remember(&self, identity: &str) -> Result<(), FigureError> {
        let next = self.get(Cell::next())?;
        self.set(Cell::remembered(next), hash(identity))?;
        self.set(Cell::next(), next.wrapping_add(1))
    }

    /// Whether a container was there before; it is forgotten.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn recall(&self, identity: &str) -> Result<bool, FigureError> {
        let wanted = hash(identity);
        for index in 0..REMEMBERED.min(self.get(Cell::next())?) {
            if self.get(Cell::remembered(index))? == wanted {
                self.set(Cell::remembered(index), 0)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn lock(&self) -> Result<(), FigureError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(()),
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(POLL),
                Err(Errno::WOULDBLOCK) => return Err(FigureError::Busy),
                Err(error) => return Err(failed("lock")(error.into())),
            }
        }
    }

    fn add(&self, cell: Cell, more: u64) -> Result<(), FigureError> {
        self.set(cell, self.get(cell)?.saturating_add(more))
    }

    fn get(&self, cell: Cell) -> Result<u64, FigureError> {
        let mut bytes = [0; 8];
        match self.file.read_exact_at(&mut bytes, cell.offset()) {
            Ok(()) => Ok(u64::from_ne_bytes(bytes)),
            // A file that was just made.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            Err(error) => Err(failed("read")(error)),
        }
    }

    fn set(&self, cell: Cell, value: u64) -> Result<(), FigureError> {
        self.file.write_all_at(&value.to_ne_bytes(), cell.offset()).map_err(failed("write"))
    }
}

/// Of a container nothing else is kept. Zero is no container.
fn hash(identity: &str) -> u64 {
    let digest = Sha256::digest(identity.as_bytes());
    let first = digest.first_chunk::<8>().copied().unwrap_or_default();
    u64::from_ne_bytes(first).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{FailedVerb, FailureReason, Phase};
    use crate::kind::SandboxKind;

    const PHASE: Timed = Timed::Phase(SandboxKind::Microvm, Phase::Sandbox);
    const FAILURE: Counted = Counted::Failure(FailedVerb::Create, FailureReason::Bundle);

    fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("figures");
        (folder, path)
    }

    #[test]
    fn what_one_command_notes_the_next_adds_to() {
        let (_guard, path) = folder();
        for milliseconds in [3, 4, 700] {
            let figures = Figures::open(&path).unwrap();
            figures.observe(PHASE, Duration::from_millis(milliseconds)).unwrap();
            figures.count(FAILURE).unwrap();
        }
        let counts = Figures::read(&path).unwrap();
        let distribution = counts.distribution(PHASE);
        assert_eq!((distribution.buckets[2], distribution.buckets[9]), (2, 1));
        assert_eq!(distribution.buckets.iter().sum::<u64>(), 3);
        assert_eq!(distribution.sum_us, 707_000);
        assert_eq!(counts.count(FAILURE), 3);
        assert_eq!(counts.count(Counted::Failure(FailedVerb::Run, FailureReason::Bundle)), 0);
    }

    #[test]
    fn many_at_once_lose_nothing() {
        let (_guard, path) = folder();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        Figures::open(&path).unwrap().count(FAILURE).unwrap();
                    }
                });
            }
        });
        assert_eq!(Figures::read(&path).unwrap().count(FAILURE), 80);
    }

    #[test]
    fn a_time_without_end_does_not_wrap_the_sum() {
        let (_guard, path) = folder();
        let figures = Figures::open(&path).unwrap();
        figures.observe(PHASE, Duration::MAX).unwrap();
        figures.observe(PHASE, Duration::from_secs(1)).unwrap();
        assert_eq!(Figures::read(&path).unwrap().distribution(PHASE).sum_us, u64::MAX);
    }

    #[test]
    fn a_file_of_another_version_begins_anew() {
        let (_guard, path) = folder();
        std::fs::write(&path, [7; 100_000]).unwrap();
        assert_eq!(Figures::read(&path).unwrap().count(FAILURE), 0);
        Figures::open(&path).unwrap().count(FAILURE).unwrap();
        assert_eq!(Figures::read(&path).unwrap().count(FAILURE), 1);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), file_bytes());
    }

    #[test]
    fn a_lock_that_is_not_given_back_is_not_waited_for() {
        let (_guard, path) = folder();
        let _held = Figures::open(&path).unwrap();
        let begun = Instant::now();
        assert!(matches!(Figures::open(&path), Err(FigureError::Busy)));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_link_is_not_followed() {
        let (_guard, path) = folder();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(Figures::open(&path).is_err());
        assert!(Figures::read(&path).is_err());
    }

    #[test]
    fn a_container_that_comes_back_is_recalled_once_and_old_ones_are_forgotten() {
        let (_guard, path) = folder();
        let figures = Figures::open(&path).unwrap();
        assert!(!figures.recall("a").unwrap());
        figures.remember("a").unwrap();
        assert!(!figures.recall("b").unwrap());
        assert!(figures.recall("a").unwrap());
        assert!(!figures.recall("a").unwrap());
        figures.remember("a").unwrap();
        for other in 0..REMEMBERED {
            figures.remember(&other.to_string()).unwrap();
        }
        assert!(!figures.recall("a").unwrap());
    }
}
