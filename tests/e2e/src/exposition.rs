//! A strict reader of OpenMetrics text, as Prometheus' own is: what breaks a rule of the format, or
//! has a value that no count can have, fails the test.

use std::collections::{BTreeMap, BTreeSet};

type Labels = BTreeMap<String, String>;

/// Everything in one exposition.
#[derive(Debug)]
pub struct Exposition {
    samples: BTreeMap<String, Vec<(Labels, f64)>>,
}

impl Exposition {
    /// Reads it.
    #[must_use]
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("no end: {text}"));
        let (mut family, mut kind) = (String::new(), String::new());
        let (mut families, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut samples: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let words: Vec<&str> = comment.splitn(3, ' ').collect();
                let [keyword, name, rest] = words[..] else { panic!("{line}") };
                if name != family {
                    assert!(families.insert(name.to_owned()), "{name} comes twice");
                    (family, kind) = (name.to_owned(), String::new());
                }
                match keyword {
                    "TYPE" => rest.clone_into(&mut kind),
                    "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                    "HELP" => assert!(!rest.is_empty(), "{line}"),
                    _ => panic!("{line}"),
                }
                continue;
            }
            let (name, labels, value) = sample(line);
            let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("stray: {line}"));
            let allowed: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => panic!("{line} is of the kind {kind}"),
            };
            assert!(allowed.contains(&suffix), "{line} in a {kind}");
            assert!(value >= 0.0 && value.is_finite(), "{line}");
            assert!(seen.insert((name.clone(), labels.clone())), "{line} comes twice");
            samples.entry(name).or_default().push((labels, value));
        }
        let exposition = Self { samples };
        exposition.check_histograms();
        exposition
    }

    /// Buckets only grow, the last is `+Inf` and holds as many as the count says.
    fn check_histograms(&self) {
        for (name, buckets) in &self.samples {
            let Some(family) = name.strip_suffix("_bucket") else { continue };
            let mut series: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
            for (labels, value) in buckets {
                let mut labels = labels.clone();
                let bound = labels.remove("le").unwrap_or_else(|| panic!("{name} without le"));
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
                series.entry(labels).or_default().push((bound, *value));
            }
            for (labels, buckets) in series {
                assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name} {labels:?}");
                let (bound, count) = *buckets.last().unwrap();
                assert_eq!(bound, f64::INFINITY, "{name} {labels:?}");
                let same = self.samples[&format!("{family}_count")].iter();
                let same = same.filter(|(of, _)| *of == labels).map(|(_, value)| *value);
                assert_eq!(same.collect::<Vec<_>>(), [count], "{name} {labels:?}");
            }
        }
    }

    /// The one sample of this name with these labels among its own.
    #[must_use]
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found = self.matching(name, labels);
        let [value] = found[..] else { panic!("{name} {labels:?}: {found:?}") };
        value
    }

    /// The sum of those with these labels among their own, of which there is at least one.
    #[must_use]
    #[track_caller]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found = self.matching(name, labels);
        assert!(!found.is_empty(), "{name} {labels:?}");
        found.iter().sum()
    }

    fn matching(&self, name: &str, wanted: &[(&str, &str)]) -> Vec<f64> {
        let samples = self.samples.get(name).map_or(&[][..], Vec::as_slice);
        let has = |labels: &Labels| {
            wanted.iter().all(|(key, value)| labels.get(*key).is_some_and(|is| is == value))
        };
        samples.iter().filter(|(labels, _)| has(labels)).map(|(_, value)| *value).collect()
    }
}

/// `name{key="value",…} number`.
fn sample(line: &str) -> (String, Labels, f64) {
    let (before, number) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let value = number.parse().unwrap_or_else(|_| panic!("{line}"));
    let Some((name, rest)) = before.split_once('{') else {
        return (word(before), Labels::new(), value);
    };
    let mut rest = rest.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
    let mut labels = Labels::new();
    while !rest.is_empty() {
        let (key, quoted) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        let (text, after) = unquote(quoted).unwrap_or_else(|| panic!("{line}"));
        assert!(labels.insert(word(key), text).is_none(), "{line}");
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    (word(name), labels, value)
}

/// A text up to its closing quote, and what is behind.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((text, &quoted[at + 1..])),
            '\\' => text.push(match characters.next()?.1 {
                'n' => '\n',
                same @ ('"' | '\\') => same,
                _ => return None,
            }),
            other => text.push(other),
        }
    }
    None
}

/// A name as metrics and labels may have it.
#[track_caller]
fn word(text: &str) -> String {
    let is_first = |character: char| character.is_ascii_alphabetic() || character == '_';
    let is_other = |character: char| is_first(character) || character.is_ascii_digit();
    let right = text.starts_with(is_first) && text.chars().all(is_other);
    assert!(right, "{text} is no name");
    text.to_owned()
}
