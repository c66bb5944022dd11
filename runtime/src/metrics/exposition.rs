//! How metrics are written: OpenMetrics 1.0, which Prometheus reads since its version 2.5, or JSON.
//!
//! The format is so small that it is written here: the libraries for it have values of signed or
//! floating type, or leave labels as they are (decision 17).

use std::fmt::{self, Write as _};

use super::families::{Family, Kind, Label, Sample, Unit, Value};
use crate::figures::{BUCKET_BOUNDS_US, Distribution};

/// What a server says that [`text()`] is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const US_IN_A_SECOND: u64 = 1_000_000;

/// As Prometheus reads it.
///
/// # Errors
/// Never, as long as there is memory.
pub fn text(families: &[Family]) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for family in families {
        write_family(&mut text, family)?;
    }
    text.push_str("# EOF\n");
    Ok(text)
}

/// As other programs read it: one document.
///
/// # Errors
/// Never, as long as there is memory.
pub fn json(families: &[Family]) -> serde_json::Result<String> {
    serde_json::to_string_pretty(families).map(|text| text + "\n")
}

fn write_family(to: &mut String, family: &Family) -> fmt::Result {
    let unit = family.unit.map(|unit| match unit {
        Unit::Bytes => "bytes",
        Unit::Seconds => "seconds",
    });
    let name = match unit {
        Some(unit) => format!("{}_{unit}", family.name),
        None => family.name.to_owned(),
    };
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    writeln!(to, "# TYPE {name} {kind}")?;
    if let Some(unit) = unit {
        writeln!(to, "# UNIT {name} {unit}")?;
    }
    writeln!(to, "# HELP {name} {}", family.help)?;
    family.samples.iter().try_for_each(|sample| write_sample(to, &name, family.kind, sample))
}

fn write_sample(to: &mut String, name: &str, kind: Kind, sample: &Sample) -> fmt::Result {
    let suffix = if kind == Kind::Counter { "_total" } else { "" };
    match &sample.value {
        Value::Value(value) => {
            write!(to, "{name}{suffix}")?;
            write_labels(to, &sample.labels, None)?;
            writeln!(to, " {value}")
        }
        Value::Histogram(distribution) => write_histogram(to, name, sample, distribution),
    }
}

/// Each bucket holds those before it, as the format wants it. The count is the last one's: the two
/// cannot differ.
fn write_histogram(
    to: &mut String,
    name: &str,
    sample: &Sample,
    taken: &Distribution,
) -> fmt::Result {
    let bounds = BUCKET_BOUNDS_US.into_iter().map(|us| Seconds(us).to_string());
    let mut count: u64 = 0;
    for (bound, bucket) in bounds.chain(["+Inf".to_owned()]).zip(taken.buckets) {
        count = count.saturating_add(bucket);
        write!(to, "{name}_bucket")?;
        write_labels(to, &sample.labels, Some(&bound))?;
        writeln!(to, " {count}")?;
    }
    for (suffix, value) in
        [("sum", Seconds(taken.sum_us).to_string()), ("count", count.to_string())]
    {
        write!(to, "{name}_{suffix}")?;
        write_labels(to, &sample.labels, None)?;
        writeln!(to, " {value}")?;
    }
    Ok(())
}

fn write_labels(
    to: &mut String,
    labels: &[(&'static str, Label)],
    bound: Option<&str>,
) -> fmt::Result {
    let mut all: Vec<_> = labels.iter().map(|(key, label)| (*key, label.to_string())).collect();
    all.extend(bound.map(|bound| ("le", bound.to_owned())));
    if all.is_empty() {
        return Ok(());
    }
    let all: Vec<_> =
        all.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
    write!(to, "{{{}}}", all.join(","))
}

/// A label's value, which ends at a quote and goes over one line.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

/// A time in microseconds, shown in seconds: exactly, with one digit behind the point at least.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / US_IN_A_SECOND, self.0 % US_IN_A_SECOND);
        let digits = format!("{rest:06}");
        let digits = digits.trim_end_matches('0');
        write!(f, "{whole}.{}", if digits.is_empty() { "0" } else { digits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::families::{families, tests::snapshot};

    fn shown() -> String {
        text(&families(&snapshot())).unwrap()
    }

    #[test]
    fn names_have_their_units_and_counters_their_suffix() {
        let shown = shown();
        for line in [
            "# TYPE cofferdam_start_phase_seconds histogram",
            "# UNIT cofferdam_start_phase_seconds seconds",
            "# TYPE cofferdam_failures counter",
            "cofferdam_failures_total{verb=\"create\",reason=\"bundle\"} 0",
            "cofferdam_sandboxes{isolation=\"microvm\",status=\"running\"} 1",
            "cofferdam_unreadable 0",
        ] {
            assert!(shown.lines().any(|one| one == line), "{line} in\n{shown}");
        }
        assert!(shown.ends_with("# EOF\n"));
    }

    #[test]
    fn a_folder_s_name_cannot_break_out_of_its_label() {
        let shown = shown();
        let line =
            shown.lines().find(|line| line.starts_with("cofferdam_kvm_exits_total")).unwrap();
        assert_eq!(line, r#"cofferdam_kvm_exits_total{root="/run/a \"b\"\n\\c",sandbox="abc"} 9"#);
    }

    #[test]
    fn seconds_are_exact() {
        let shown =
            [0, 1, 2_500, 1_000_000, 30_000_000, u64::MAX].map(|us| Seconds(us).to_string());
        let expected = ["0.0", "0.000001", "0.0025", "1.0", "30.0", "18446744073709.551615"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn no_number_is_below_zero_or_none() {
        let shown = shown();
        for line in shown.lines().filter(|line| !line.starts_with('#')) {
            let (_, number) = line.rsplit_once(' ').unwrap();
            let number: f64 = number.parse().unwrap();
            assert!(number >= 0.0 && number.is_finite(), "{line}");
        }
    }

    #[test]
    fn the_buckets_of_a_histogram_hold_those_before_them() {
        let mut snapshot = snapshot();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("figures");
        let phase = crate::figures::Timed::Phase(
            crate::kind::SandboxKind::Namespace,
            crate::figures::Phase::Start,
        );
        for milliseconds in [2, 7, 60_000] {
            let took = std::time::Duration::from_millis(milliseconds);
            crate::figures::Figures::open(&path).unwrap().observe(phase, took).unwrap();
        }
        snapshot.counts = crate::figures::Figures::read(&path).unwrap();
        let shown = text(&families(&snapshot)).unwrap();
        let of = |suffix: &str| {
            let start = format!("cofferdam_start_phase_seconds_{suffix}");
            let labels = "isolation=\"namespace\",phase=\"start\"";
            let lines =
                shown.lines().filter(|line| line.starts_with(&start) && line.contains(labels));
            lines.map(|line| line.rsplit_once(' ').unwrap().1.to_owned()).collect::<Vec<_>>()
        };
        let expected = ["0", "1", "1", "2", "2", "2", "2", "2", "2", "2", "2", "2", "2", "2", "3"];
        assert_eq!(of("bucket"), expected);
        assert_eq!((of("count"), of("sum")), (vec!["3".to_owned()], vec!["60.009".to_owned()]));
    }
}
