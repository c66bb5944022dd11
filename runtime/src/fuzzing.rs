//! From any bytes as `config.json` to a plan: what the fuzz target calls, and what the same property
//! is tested with in normal tests.
//!
//! Not part of a build without the feature `fuzzing`.
#![allow(clippy::unwrap_used, reason = "a broken property is to be seen at once")]

use std::path::Path;

use cofferdam_protocol::plan::StdioPlan;
use oci_spec::runtime::Spec;

use crate::plan::{self, HostFacts, PlanInput, SandboxPlan, SourceKind, VmDefaults, bind_source};
use crate::sandbox::namespace;
use crate::spec::{self, rules};

const BUNDLE: &str = "/bundle";
const STDIO: StdioPlan = StdioPlan::Pipes { stdin: true, stdout: true, stderr: true };
const DEFAULTS: VmDefaults = VmDefaults {
    vcpus: 1,
    memory_mib: 256,
    overhead_mib: 48,
    max_vcpus: 1,
    max_memory_mib: 0,
    announced_vcpus_max: 1,
    announced_memory_max_mib: 4096,
};

/// Parses, checks and plans. Whatever the bytes are: no panic, no hang, and what passes the rules
/// and is planned has in it what the agent can pass to system calls.
pub fn config_to_plan(bytes: &[u8]) {
    let Ok(bytes) = spec::cleaned(bytes.to_vec()) else { return };
    let Ok(spec) = spec::parse::<Spec>(Path::new("config.json"), &bytes) else { return };
    if rules::check(&spec).is_err() {
        return;
    }
    let _ = namespace::unsupported(&spec);
    if let Some(process) = spec.process()
        && let Ok(plan) = plan::exec_plan(process, &spec, STDIO)
    {
        assert!(!has_nul(&serde_json::to_string(&plan).unwrap()));
    }
    let facts = facts(&spec);
    let plan = SandboxPlan::new(&PlanInput {
        id: &"fuzzed".parse().unwrap(),
        bundle: Path::new(BUNDLE),
        rootfs: Path::new("/bundle/rootfs"),
        spec: &spec,
        stdio: STDIO,
        defaults: DEFAULTS,
        facts: &facts,
    });
    if let Ok(mut plan) = plan {
        // It travels as JSON, in which a NUL is written as an escape, and is for hooks to read.
        plan.container.hook_state.clear();
        assert!(!has_nul(&serde_json::to_string(&plan).unwrap()));
    }
}

fn has_nul(text: &str) -> bool {
    text.contains("\\u0000")
}

/// Every source is there; files have a dot in their name.
fn facts(spec: &Spec) -> HostFacts {
    let kind = |mount| {
        let path = bind_source(mount, Path::new(BUNDLE))?;
        let is_file = path.to_string_lossy().contains('.');
        Some(if is_file { SourceKind::File } else { SourceKind::Folder })
    };
    let bind_sources = spec.mounts().iter().flatten().map(kind).collect();
    HostFacts { bind_sources, ..HostFacts::default() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const DOCUMENTS: [&str; 4] = [
        spec::template::ROOTFUL,
        include_str!("../tests/configs/runc-spec.json"),
        include_str!("../tests/configs/podman.json"),
        include_str!("../tests/oci_fields/full.json"),
    ];

    const TEXTS: &[&str] =
        &["", "\0", "/", "..", "/a/../..", "0-8191,0-8191", "a\u{202e}b", "-1", "bind"];

    /// Values that are at the edge of something.
    fn odd_value() -> impl Strategy<Value = Value> {
        let long = "x".repeat(5000);
        let numbers = [i64::MIN, -2, -1, 0, 1, 4096, 65_536, 1 << 31, 1 << 32, i64::MAX];
        prop_oneof![
            proptest::sample::select(TEXTS).prop_map(|text| json!(text)),
            proptest::sample::select(numbers.to_vec()).prop_map(|number| json!(number)),
            Just(json!(u64::MAX)),
            Just(json!(long)),
            Just(json!(null)),
            Just(json!(true)),
            Just(json!(1.5)),
            Just(json!([])),
            Just(json!({})),
            Just(json!(["", "\0"])),
            Just(json!([{}])),
            "\\PC{0,12}".prop_map(|text| json!(text)),
        ]
    }

    /// Goes down the document as the numbers say, and changes what it comes to.
    fn change(document: &mut Value, steps: &[u8], value: &Value, how: u8) {
        let mut place = document;
        for step in steps {
            let count = place.as_object().map_or(0, serde_json::Map::len)
                + place.as_array().map_or(0, Vec::len);
            if count == 0 {
                break;
            }
            let index = usize::from(*step) % count;
            place = match place {
                Value::Object(members) => members.values_mut().nth(index).unwrap(),
                Value::Array(items) => items.get_mut(index).unwrap(),
                _ => return,
            };
        }
        match (how % 4, place) {
            (0, Value::Array(items)) => items.push(value.clone()),
            (1, Value::Array(items)) if !items.is_empty() => {
                let first = items[0].clone();
                items.push(first);
            }
            (2, Value::Object(members)) => drop(members.insert("path".to_owned(), value.clone())),
            (_, place) => *place = value.clone(),
        }
    }

    proptest! {
        #[test]
        fn any_change_of_a_document_is_refused_or_planned(
            which in 0..DOCUMENTS.len(),
            changes in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..7), odd_value(), any::<u8>()),
                1..6,
            ),
        ) {
            let mut document: Value = serde_json::from_str(DOCUMENTS[which]).unwrap();
            for (steps, value, how) in &changes {
                change(&mut document, steps, value, *how);
            }
            config_to_plan(document.to_string().as_bytes());
        }

        #[test]
        fn any_change_of_bytes_is_refused_or_planned(
            which in 0..DOCUMENTS.len(),
            changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = DOCUMENTS[which].as_bytes().to_vec();
            for (place, byte) in changes {
                let place = usize::from(place) % bytes.len();
                bytes[place] = byte;
            }
            config_to_plan(&bytes);
        }

        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            config_to_plan(&bytes);
        }
    }
}
