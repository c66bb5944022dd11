//! What was measured: every sample, and the table that people read.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::table::Table;

/// A run of the benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// Whether times are counts of instructions (the lab's `--icount`) or this machine's clock.
    pub(super) virtual_time: bool,
    /// In the order measured.
    pub(super) subjects: Vec<SubjectReport>,
}

/// What was measured of one runtime.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SubjectReport {
    /// `runc`, `crun`, `namespace` or `microvm`.
    pub(super) name: String,
    /// What it says of itself.
    pub(super) version: String,
    /// In the table's order.
    pub(super) operations: Vec<Operation>,
    /// From the guest's first instruction to a ready agent.
    pub(super) boot: Option<Operation>,
    /// What one idle container keeps resident, in KiB.
    pub(super) idle: Option<Idle>,
}

/// One thing that was done many times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Operation {
    /// Its name.
    pub(super) name: String,
    /// The middle one, in microseconds.
    pub(super) median_us: u64,
    /// The shortest.
    pub(super) min_us: u64,
    /// The longest.
    pub(super) max_us: u64,
    /// All, in the order measured.
    pub(super) samples_us: Vec<u64>,
}

impl Operation {
    /// Sums up samples, of which there is at least one.
    pub(super) fn new(name: &str, samples_us: Vec<u64>) -> Self {
        let mut sorted = samples_us.clone();
        sorted.sort_unstable();
        let at = |index: usize| sorted.get(index).copied().unwrap_or(0);
        Self {
            name: name.to_owned(),
            median_us: at(sorted.len() / 2),
            min_us: at(0),
            max_us: at(sorted.len().saturating_sub(1)),
            samples_us,
        }
    }
}

/// Memory of an idle container.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Idle {
    /// The monitor without guest memory.
    pub(super) monitor_kib: u64,
    /// Guest memory that is resident.
    pub(super) guest_kib: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.virtual_time { "virtual ms" } else { "ms" };
        let Some(first) = self.subjects.first() else { return Ok(()) };
        let names = first.operations.iter().map(|operation| operation.name.clone());
        let mut table = Table::new(std::iter::once(unit.to_owned()).chain(names));
        for subject in &self.subjects {
            let cells = subject.operations.iter().map(|operation| {
                let ratio = first
                    .operations
                    .iter()
                    .find(|other| other.name == operation.name)
                    .map(|other| ratio(operation.median_us, other.median_us));
                format!("{} ({})", milliseconds(operation.median_us), ratio.unwrap_or_default())
            });
            table.row(std::iter::once(subject.name.clone()).chain(cells));
        }
        write!(f, "{table}")?;
        let runs = first.operations.first().map_or(0, |operation| operation.samples_us.len());
        writeln!(f, "Medians of {runs}; in brackets the ratio to {}.", first.name)?;
        for subject in &self.subjects {
            if let Some(boot) = &subject.boot {
                let median = milliseconds(boot.median_us);
                writeln!(f, "Of {}: {} {median} {unit}.", subject.name, boot.name)?;
            }
            if let Some(idle) = subject.idle {
                writeln!(
                    f,
                    "Idle {}: monitor {} KiB without guest memory, guest memory {} KiB.",
                    subject.name, idle.monitor_kib, idle.guest_kib
                )?;
            }
        }
        Ok(())
    }
}

/// `12.3`, in whole numbers so that no figure is rounded twice.
pub(crate) fn milliseconds(us: u64) -> String {
    let tenths = (us + 50) / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// `0.60×`; nothing where there is nothing to compare with.
pub(super) fn ratio(us: u64, to_us: u64) -> String {
    let hundredths = (us * 100 + to_us / 2).checked_div(to_us);
    hundredths.map_or_else(String::new, |h| format!("{}.{:02}×", h / 100, h % 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_sample() {
        let operation = Operation::new("run", vec![30, 10, 20]);
        assert_eq!((operation.min_us, operation.median_us, operation.max_us), (10, 20, 30));
        assert_eq!(operation.samples_us, [30, 10, 20]);
    }

    #[test]
    fn figures_are_rounded_to_the_nearest() {
        assert_eq!(milliseconds(52_649), "52.6");
        assert_eq!(milliseconds(52_650), "52.7");
        assert_eq!(ratio(150, 100), "1.50×");
        assert_eq!(ratio(1, 0), "");
    }
}
