//! What was measured of the network: every sample, and the table that people read.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bench::report::ratio;
use crate::table::Table;

/// A run of the benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NetworkReport {
    /// Whether times are counts of instructions (the lab's `--icount`) or this machine's clock.
    pub(crate) virtual_time: bool,
    /// In the order measured.
    pub(crate) subjects: Vec<Traffic>,
}

/// What was measured of one runtime.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Traffic {
    /// `runc`, `crun`, `namespace` or `microvm`.
    pub(crate) name: String,
    /// What it says of itself.
    pub(crate) version: String,
    /// In the table's order.
    pub(crate) flows: Vec<Flow>,
}

/// One kind of traffic.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Flow {
    /// Its name.
    pub(crate) name: String,
    /// What is counted: `MiB` or `request`.
    pub(crate) unit: String,
    /// How many of them one sample is of.
    pub(crate) units: u64,
    /// The middle one, in nanoseconds for one unit.
    pub(crate) median_ns: u64,
    /// All, in the order measured.
    pub(crate) samples_ns: Vec<u64>,
    /// What KVM did for one unit, by the names of its own statistics.
    pub(crate) kvm: Vec<(String, f64)>,
}

impl Flow {
    /// Sums up samples of so many units each, of which there is at least one.
    pub(super) fn new(name: &str, unit: &str, units: u64, samples_ns: Vec<u64>) -> Self {
        let mut sorted = samples_ns.clone();
        sorted.sort_unstable();
        let median_ns = sorted.get(sorted.len() / 2).copied().unwrap_or(0) / units.max(1);
        let (name, unit) = (name.to_owned(), unit.to_owned());
        Self { name, unit, units, median_ns, samples_ns, kvm: Vec::new() }
    }

    fn cell(&self, first: Option<&Self>) -> String {
        let micros = format!("{}.{}", self.median_ns / 1000, self.median_ns % 1000 / 100);
        let of_first = first.map(|first| ratio(first.median_ns, self.median_ns));
        format!("{micros} ({})", of_first.unwrap_or_default())
    }
}

impl fmt::Display for NetworkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.virtual_time { "virtual µs" } else { "µs" };
        let Some(first) = self.subjects.first() else { return Ok(()) };
        let heads = first.flows.iter().map(|flow| format!("{} /{}", flow.name, flow.unit));
        let mut table = Table::new(std::iter::once(unit.to_owned()).chain(heads));
        for subject in &self.subjects {
            let cells = subject
                .flows
                .iter()
                .map(|flow| flow.cell(first.flows.iter().find(|other| other.name == flow.name)));
            table.row(std::iter::once(subject.name.clone()).chain(cells));
        }
        write!(f, "{table}")?;
        let samples = first.flows.first().map_or(0, |flow| flow.samples_ns.len());
        writeln!(
            f,
            "Medians of {samples}; in brackets how much is moved in {}'s time.",
            first.name
        )?;
        for (subject, flow) in
            self.subjects.iter().flat_map(|subject| subject.flows.iter().map(move |f| (subject, f)))
        {
            if !flow.kvm.is_empty() {
                let figures = flow.kvm.iter().map(|(name, value)| format!("{name} {value:.2}"));
                let figures = figures.collect::<Vec<_>>().join(", ");
                writeln!(
                    f,
                    "KVM, {} {}, for each {}: {figures}.",
                    subject.name, flow.name, flow.unit
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_twice_the_time_moves_half() {
        let flow = |ns| Flow::new("in", "MiB", 2, vec![ns, 1, 9_000_000]);
        let (runc, microvm) = (flow(1_000_000), flow(2_000_000));
        assert_eq!(runc.median_ns, 500_000);
        assert_eq!(microvm.cell(Some(&runc)), "1000.0 (0.50×)");
    }
}
