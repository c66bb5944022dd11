//! The file of figures: a number of cells of 64 bits, in the byte order of the machine. Each is
//! written on its own and whole.
//!
//! ```text
//!  mark │ timed: 15 buckets, a sum of microseconds │ … │ counted │ … │ next │ the deleted: hashes …
//! ```

use super::series::{Counted, Timed};

/// The upper bounds of all buckets but the last, which has none, in microseconds.
pub const BUCKET_BOUNDS_US: [u64; 14] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];
/// How many buckets there are.
pub const BUCKETS: usize = BUCKET_BOUNDS_US.len() + 1;

/// How many deleted containers are remembered, to know a restart by.
pub(super) const REMEMBERED: u64 = 1024;

/// Raised when the meaning of a cell changes that the number of cells does not show.
const VERSION: u64 = 1;
const CELL_BYTES: u64 = 8;
const CELLS_OF_TIMED: u64 = BUCKETS as u64 + 1;

/// The number of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell(u64);

impl Cell {
    /// Tells a file of this layout from others.
    pub(super) const MARK: Self = Self(0);

    /// Where in the file it is, in bytes.
    pub(super) const fn offset(self) -> u64 {
        self.0 * CELL_BYTES
    }

    /// The bucket for something that took so many microseconds.
    pub(super) fn bucket(timed: Timed, microseconds: u64) -> Self {
        let index = BUCKET_BOUNDS_US.iter().take_while(|bound| **bound < microseconds).count();
        Self(first_of(timed) + index as u64)
    }

    /// What a series took together.
    pub(super) fn sum(timed: Timed) -> Self {
        Self(first_of(timed) + BUCKETS as u64)
    }

    /// A count.
    pub(super) fn count(counted: Counted) -> Self {
        let index = Counted::all().position(|one| one == counted).unwrap_or_default();
        Self(counts() + index as u64)
    }

    /// How many were ever remembered.
    pub(super) fn next() -> Self {
        Self(counts() + Counted::all().count() as u64)
    }

    /// The hash that was remembered as this one, the oldest being overwritten.
    pub(super) fn remembered(index: u64) -> Self {
        Self(Self::next().0 + 1 + index % REMEMBERED)
    }

    fn end() -> Self {
        Self(Self::next().0 + 1 + REMEMBERED)
    }
}

/// What the first cell holds.
pub(super) fn mark() -> u64 {
    const NAME: [u8; 4] = *b"coff";
    u64::from(u32::from_le_bytes(NAME)) << 32 | VERSION << 24 | Cell::end().0
}

/// The length of the file.
pub(super) fn file_bytes() -> u64 {
    Cell::end().offset()
}

fn first_of(timed: Timed) -> u64 {
    let index = Timed::all().position(|one| one == timed).unwrap_or_default();
    1 + index as u64 * CELLS_OF_TIMED
}

fn counts() -> u64 {
    1 + Timed::all().count() as u64 * CELLS_OF_TIMED
}

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// How many are in each bucket, and in none before it.
    pub buckets: [u64; BUCKETS],
    /// What all of them took together.
    pub sum_us: u64,
}

/// All figures, as they were at one moment.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    cells: Vec<u64>,
}

impl Counts {
    /// The figures in a file's bytes; none, if it is of another layout.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        let cells: Vec<u64> = bytes
            .chunks_exact(8)
            .filter_map(|cell| Some(u64::from_ne_bytes(cell.try_into().ok()?)))
            .collect();
        if cells.first() == Some(&mark()) { Self { cells } } else { Self::default() }
    }

    /// How long something took.
    #[must_use]
    pub fn distribution(&self, timed: Timed) -> Distribution {
        let mut buckets = [0; BUCKETS];
        let first = first_of(timed);
        for (index, bucket) in (0..).zip(&mut buckets) {
            *bucket = self.cell(Cell(first + index));
        }
        Distribution { buckets, sum_us: self.cell(Cell::sum(timed)) }
    }

    /// How often something happened.
    #[must_use]
    pub fn count(&self, counted: Counted) -> u64 {
        self.cell(Cell::count(counted))
    }

    fn cell(&self, cell: Cell) -> u64 {
        usize::try_from(cell.0).ok().and_then(|index| self.cells.get(index)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{AgentMethod, FailedVerb, FailureReason, Phase};
    use crate::kind::SandboxKind;

    #[test]
    fn every_figure_has_cells_of_its_own() {
        let timed = Timed::all().flat_map(|timed| {
            let bounds = BUCKET_BOUNDS_US.into_iter().chain([u64::MAX]);
            let buckets: Vec<_> = bounds.map(|us| Cell::bucket(timed, us).0).collect();
            buckets.into_iter().chain([Cell::sum(timed).0])
        });
        let mut all: Vec<u64> = timed.collect();
        all.extend(Counted::all().map(|counted| Cell::count(counted).0));
        all.push(Cell::next().0);
        all.extend((0..REMEMBERED).map(|index| Cell::remembered(index).0));
        let expected: Vec<u64> = (1..Cell::end().0).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_time_is_in_the_bucket_that_it_does_not_exceed() {
        let timed = Timed::Phase(SandboxKind::Namespace, Phase::Check);
        let index = |us| Cell::bucket(timed, us).0 - Cell::bucket(timed, 0).0;
        assert_eq!([index(0), index(1_000), index(1_001), index(30_000_001)], [0, 0, 1, 14]);
    }

    #[test]
    fn a_file_that_is_cut_or_another_s_is_no_figures() {
        for bytes in [&b""[..], &[0; 8], &mark().to_ne_bytes(), &[0xff; 64]] {
            let counts = Counts::of_bytes(bytes);
            let failure = Counted::Failure(FailedVerb::Update, FailureReason::Host);
            assert_eq!(counts.count(failure), 0);
            let timed = Timed::Agent(AgentMethod::Other);
            assert_eq!(counts.distribution(timed), Distribution::default());
        }
    }
}
