//! What was measured of engines: every sample, and the tables that people read.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::containerd::Sample;
use crate::bench::report::{Operation, milliseconds, ratio};
use crate::table::Table;

/// A run of the benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EnginesReport {
    /// Whether times are counts of instructions (the lab's `--icount`) or this machine's clock.
    pub(crate) virtual_time: bool,
    /// In the order measured.
    pub(crate) subjects: Vec<Handled>,
}

/// What was measured of one runtime.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Handled {
    /// `runc`, `crun`, `namespace` or `microvm`.
    pub(crate) name: String,
    /// What it says of itself.
    pub(crate) version: String,
    /// A container that is alone.
    pub(crate) alone: Divided,
    /// A second one in a running pod.
    pub(crate) joined: Divided,
    /// From the guest's first instruction to a ready agent.
    pub(crate) boot: Option<Operation>,
}

/// One thing that was done many times, and whose time that was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Divided {
    /// From the command's beginning to its end.
    pub(crate) whole: Operation,
    /// What neither `ctr` nor containerd had the processor for.
    pub(crate) runtime: Operation,
}

impl Divided {
    /// Sums up samples, of which there is at least one.
    pub(super) fn new(name: &str, samples: &[Sample]) -> Self {
        let whole = samples.iter().map(|sample| sample.whole_us).collect();
        let rest = |sample: &Sample| sample.whole_us.saturating_sub(sample.engine_us);
        let runtime = Operation::new("the runtime's", samples.iter().map(rest).collect());
        Self { whole: Operation::new(name, whole), runtime }
    }
}

impl Handled {
    /// What the runtime takes for a container that is alone, the guest kernel's boot not counted.
    fn without_boot_us(&self) -> u64 {
        let boot = self.boot.as_ref().map_or(0, |boot| boot.median_us);
        self.alone.runtime.median_us.saturating_sub(boot)
    }

    /// The table's columns.
    fn figures(&self) -> [(&'static str, u64); 5] {
        [
            ("ctr run true", self.alone.whole.median_us),
            ("the runtime's", self.alone.runtime.median_us),
            ("without boot", self.without_boot_us()),
            ("second in a pod", self.joined.whole.median_us),
            ("the runtime's", self.joined.runtime.median_us),
        ]
    }
}

impl fmt::Display for EnginesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.virtual_time { "virtual ms" } else { "ms" };
        let Some(first) = self.subjects.first() else { return Ok(()) };
        let heads = first.figures().map(|(name, _)| name.to_owned());
        let mut table = Table::new([unit.to_owned()].into_iter().chain(heads));
        for subject in &self.subjects {
            let of_first = subject.figures().into_iter().zip(first.figures());
            let cells = of_first.map(|((_, figure), (_, other))| {
                format!("{} ({})", milliseconds(figure), ratio(figure, other))
            });
            table.row([subject.name.clone()].into_iter().chain(cells));
        }
        write!(f, "{table}")?;
        let samples = first.alone.whole.samples_us.len();
        writeln!(
            f,
            "Medians of {samples}; in brackets the ratio to {}. The runtime's: what neither ctr nor \
             containerd had the processor for.",
            first.name
        )?;
        for subject in &self.subjects {
            if let Some(boot) = &subject.boot {
                let median = milliseconds(boot.median_us);
                writeln!(f, "Of {}: {} {median} {unit}.", subject.name, boot.name)?;
            }
        }
        Ok(())
    }
}

/// A run with many pods at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CrowdReport {
    /// Whether times are counts of instructions (the lab's `--icount`) or this machine's clock.
    pub(crate) virtual_time: bool,
    /// In the order that they came in.
    pub(crate) crowds: Vec<Crowd>,
}

/// The pods of one runtime.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Crowd {
    /// `runc`, `crun`, `namespace` or `microvm`.
    pub(crate) name: String,
    /// What it says of itself.
    pub(crate) version: String,
    /// How many.
    pub(crate) pods: usize,
    /// In their order.
    pub(crate) steps: Vec<Step>,
    /// What was there afterwards and not before.
    pub(crate) left: Vec<String>,
}

/// One thing that was done with all pods at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Its name.
    pub(crate) name: String,
    /// Until it was done for the last of them, in microseconds.
    pub(crate) took_us: u64,
    /// Why it could not be done, for each pod with which it could not.
    pub(crate) failed: Vec<String>,
}

impl CrowdReport {
    /// Nothing failed, and nothing is left.
    pub(crate) fn is_kept(&self) -> bool {
        self.crowds.iter().all(|crowd| crowd.left.is_empty() && crowd.failed().next().is_none())
    }
}

impl Crowd {
    fn failed(&self) -> impl Iterator<Item = &String> {
        self.steps.iter().flat_map(|step| &step.failed)
    }
}

impl fmt::Display for CrowdReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.virtual_time { "virtual ms" } else { "ms" };
        let Some(first) = self.crowds.first() else { return Ok(()) };
        let steps = first.steps.iter().map(|step| step.name.clone());
        let heads = [format!("{} pods, {unit}", first.pods)].into_iter().chain(steps);
        let mut table = Table::new(heads.chain(["failed".to_owned(), "left".to_owned()]));
        for crowd in &self.crowds {
            let times = crowd.steps.iter().map(|step| milliseconds(step.took_us));
            let counts = [crowd.failed().count().to_string(), crowd.left.len().to_string()];
            table.row([crowd.name.clone()].into_iter().chain(times).chain(counts));
        }
        write!(f, "{table}")?;
        for crowd in &self.crowds {
            for failure in crowd.failed() {
                writeln!(f, "{}: {failure}", crowd.name)?;
            }
            for left in &crowd.left {
                writeln!(f, "{}: left behind: {left}", crowd.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handled(name: &str, whole_us: u64, engine_us: u64, boot: Option<u64>) -> Handled {
        let divided = |name| Divided::new(name, &[Sample { whole_us, engine_us }]);
        Handled {
            name: name.to_owned(),
            version: String::new(),
            alone: divided("ctr run true"),
            joined: divided("second in a pod"),
            boot: boot.map(|us| Operation::new("kernel to agent", vec![us])),
        }
    }

    #[test]
    fn the_engine_s_part_and_the_boot_are_taken_off() {
        let (runc, microvm) = (
            handled("runc", 90_000, 50_000, None),
            handled("microvm", 150_000, 50_000, Some(40_000)),
        );
        assert_eq!(runc.without_boot_us(), 40_000);
        assert_eq!(microvm.without_boot_us(), 60_000);
        let report = EnginesReport { virtual_time: true, subjects: vec![runc, microvm] };
        let table = report.to_string();
        let row = table.lines().find(|line| line.starts_with("microvm")).unwrap();
        assert!(row.contains("100.0 (2.50×)") && row.contains("60.0 (1.50×)"), "{table}");
    }

    #[test]
    fn a_failure_and_what_is_left_break_the_promise() {
        let crowd = |failed: &[&str], left: &[&str]| {
            let own = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
            let step = Step { name: "start".to_owned(), took_us: 1, failed: own(failed) };
            let (name, version) = ("microvm".to_owned(), String::new());
            let crowd = Crowd { name, version, pods: 1, steps: vec![step], left: own(left) };
            CrowdReport { virtual_time: true, crowds: vec![crowd] }
        };
        assert!(crowd(&[], &[]).is_kept());
        assert!(!crowd(&["crowd-1: no"], &[]).is_kept());
        let left = crowd(&[], &["mount /a"]);
        assert!(!left.is_kept());
        assert!(left.to_string().contains("left behind: mount /a"), "{left}");
    }
}
