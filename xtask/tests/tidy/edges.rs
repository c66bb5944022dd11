//! The crate graph is the trust graph: these edges and no others (docs/architecture.md).

use std::process::Command;

use serde_json::Value;

use crate::{assert_none, root};

/// The complete list. A new line is a decision: see docs/decisions/0001.
const ALLOWED: &[(&str, &str)] = &[
    ("containerd-shim-cofferdam-v2", "cofferdam"),
    ("containerd-shim-cofferdam-v2", "cofferdam-protocol"),
    ("cofferdam", "cofferdam-protocol"),
    ("cofferdam-vmm", "cofferdam-virtio"),
    ("cofferdam-vmm", "cofferdam-protocol"),
    ("cofferdam-virtio", "cofferdam-protocol"),
    ("cofferdam-agent", "cofferdam-protocol"),
];

/// The edges between packages of the workspace that are not allowed: for builds and tests too.
fn forbidden(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().unwrap();
    let mut found = Vec::new();
    for package in packages {
        let from = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            let is_ours = packages.iter().any(|other| other["name"] == to);
            if is_ours && !ALLOWED.contains(&(from, to)) {
                found.push(format!("{from} -> {to}"));
            }
        }
    }
    found
}

#[test]
fn only_the_allowed_crates_know_each_other() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata = serde_json::from_slice(&output.stdout).unwrap();
    assert_none(&forbidden(&metadata), "These edges are not in the list:");
}

#[test]
fn a_runtime_that_links_the_monitor_is_found() {
    let metadata = serde_json::json!({ "packages": [
        { "name": "cofferdam", "dependencies": [
            { "name": "cofferdam-vmm" }, { "name": "cofferdam-protocol" }, { "name": "serde" }
        ] },
        { "name": "cofferdam-vmm", "dependencies": [] },
        { "name": "cofferdam-protocol", "dependencies": [] }
    ] });
    assert_eq!(forbidden(&metadata), ["cofferdam -> cofferdam-vmm"]);
}
