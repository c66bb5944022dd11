//! Every promise with a number in docs/specification.md names what holds it, and that exists.
//!
//! A promise is a row of a table whose first cell is its number (`| 7 | ... |`). It names a test
//! as `` `path/to/file.rs::name_of_test` ``, or a benchmark as `` `cargo xtask bench start` ``.

use std::fs;

use crate::{assert_none, root};

/// The commands that hold a figure.
const COMMANDS: [&str; 5] = [
    "cargo xtask bench engines",
    "cargo xtask bench engines --pods 50",
    "cargo xtask bench network",
    "cargo xtask bench start",
    "cargo xtask check-sizes",
];

/// What is wrong with the promises. `source` gives a file's text.
fn broken(document: &str, source: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    for row in document.lines() {
        let Some(number) = promise_number(row) else { continue };
        let mut holders = 0;
        for word in row.split('`').skip(1).step_by(2) {
            if COMMANDS.contains(&word) {
                holders += 1;
            } else if let Some((path, test)) = word.split_once(".rs::") {
                let has = source(&format!("{path}.rs"))
                    .is_some_and(|text| text.contains(&format!("fn {test}(")));
                if has {
                    holders += 1;
                } else {
                    found.push(format!("promise {number} names {word}, which is not there"));
                }
            }
        }
        if holders == 0 {
            found.push(format!("promise {number} names no test"));
        }
    }
    found
}

fn promise_number(row: &str) -> Option<u32> {
    row.strip_prefix('|')?.split('|').next()?.trim().parse().ok()
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let document = fs::read_to_string(root().join("docs/specification.md")).unwrap();
    assert!(document.lines().any(|row| promise_number(row).is_some()), "no promise was read");
    let source = |path: &str| fs::read_to_string(root().join(path)).ok();
    assert_none(&broken(&document, source), "docs/specification.md promises what nothing holds:");
}

#[test]
fn a_promise_without_its_test_is_found() {
    let document = "| # | promise | held by |\n|---|---|---|\n\
        | 1 | holds | `a.rs::there` |\n| 2 | does not | `a.rs::gone` |\n| 3 | says nothing | |\n\
        | 4 | is measured | `cargo xtask bench start` |\n";
    let source = |path: &str| (path == "a.rs").then(|| "fn there() {}".to_owned());
    let found = broken(document, source);
    assert_eq!(
        found,
        [
            "promise 2 names a.rs::gone, which is not there",
            "promise 2 names no test",
            "promise 3 names no test"
        ]
    );
}
