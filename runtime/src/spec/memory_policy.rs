//! `linux.memoryPolicy`, checked where it is still JSON: its types know no more than that a name
//! is not one of theirs. The words are runc's.

use serde_json::Value;

const MODES: [&str; 7] = [
    "MPOL_DEFAULT",
    "MPOL_PREFERRED",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];

const FLAGS: [&str; 3] = ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

/// Linux is built for at most this many nodes (`MAX_NUMNODES`).
pub const MAX_NODES: usize = 1024;

/// What is wrong with a memory policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMemoryPolicy {
    /// Missing, or none that Linux has.
    #[error("invalid memory policy mode {0} at linux.memoryPolicy.mode")]
    Mode(String),
    /// None that Linux has.
    #[error("invalid memory policy flag {flag} at linux.memoryPolicy.flags[{index}]")]
    Flag {
        /// Which.
        index: usize,
        /// What it says.
        flag: String,
    },
    /// Not a list of numbers and ranges below [`MAX_NODES`].
    #[error(
        "invalid memory policy nodes {0:?} at linux.memoryPolicy.nodes, below {MAX_NODES} is possible"
    )]
    Nodes(String),
    /// Some modes have no use for nodes.
    #[error("invalid memory policy: {mode} mode requires 0 nodes but got {count}")]
    NotOfNodes {
        /// Which.
        mode: String,
        /// How many are named.
        count: usize,
    },
}

/// Checks a configuration's policy, if it has one.
pub(super) fn check(document: &Value) -> Result<(), InvalidMemoryPolicy> {
    let Some(policy) = document.pointer("/linux/memoryPolicy").filter(|p| !p.is_null()) else {
        return Ok(());
    };
    let text = |key: &str| policy.get(key).and_then(Value::as_str).unwrap_or_default();
    let mode = text("mode");
    if !MODES.contains(&mode) {
        return Err(InvalidMemoryPolicy::Mode(format!("{mode:?}")));
    }
    let flags = policy.get("flags").and_then(Value::as_array);
    for (index, flag) in flags.into_iter().flatten().enumerate() {
        if !flag.as_str().is_some_and(|flag| FLAGS.contains(&flag)) {
            return Err(InvalidMemoryPolicy::Flag { index, flag: flag.to_string() });
        }
    }
    let invalid = || InvalidMemoryPolicy::Nodes(text("nodes").to_owned());
    let nodes = numbers(text("nodes"), MAX_NODES).ok_or_else(invalid)?;
    if matches!(mode, "MPOL_DEFAULT" | "MPOL_LOCAL") && !nodes.is_empty() {
        let mode = mode.to_owned();
        return Err(InvalidMemoryPolicy::NotOfNodes { mode, count: nodes.len() });
    }
    Ok(())
}

/// The numbers of a list like `0-3,7`, all below a bound; `None` when it is not one.
#[must_use]
pub fn numbers(list: &str, bound: usize) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= bound {
            return None;
        }
        numbers.extend(first..=last);
        // A list may name one range over and over.
        if numbers.len() > bound {
            numbers.sort_unstable();
            numbers.dedup();
        }
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(policy: Value) -> String {
        check(&json!({"linux": {"memoryPolicy": policy}})).unwrap_err().to_string()
    }

    #[test]
    fn what_linux_has_is_accepted() {
        for policy in [
            json!({"mode": "MPOL_DEFAULT"}),
            json!({"mode": "MPOL_BIND", "nodes": "0-3,7", "flags": ["MPOL_F_STATIC_NODES"]}),
        ] {
            check(&json!({"linux": {"memoryPolicy": policy}})).unwrap();
        }
        check(&json!({"linux": {}})).unwrap();
    }

    #[test]
    fn each_part_is_named() {
        assert!(error(json!({})).contains("invalid memory policy mode"));
        assert!(error(json!({"mode": "INTERLEAVE"})).contains("\"INTERLEAVE\""));
        let flag = error(json!({"mode": "MPOL_BIND", "flags": ["MPOL_F_STATIC_NODES", "bad"]}));
        assert!(flag.ends_with("linux.memoryPolicy.flags[1]"), "{flag}");
        let nodes = error(json!({"mode": "MPOL_BIND", "nodes": "0-9876543210"}));
        assert!(nodes.contains("invalid memory policy nodes \"0-9876543210\""), "{nodes}");
        let nodes = error(json!({"mode": "MPOL_DEFAULT", "nodes": "0-7"}));
        assert!(nodes.contains("mode requires 0 nodes but got 8"), "{nodes}");
    }

    #[test]
    fn a_list_of_numbers_and_ranges_is_read() {
        assert_eq!(numbers("0-2,5", 8), Some(vec![0, 1, 2, 5]));
        assert_eq!(numbers("", 8), Some(vec![]));
        for bad in ["x", "3-1", "8", "1-", "-1"] {
            assert_eq!(numbers(bad, 8), None, "{bad}");
        }
    }
}
