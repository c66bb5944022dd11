//! Golden copies of the plans for configurations as engines write them. A change of a plan shows
//! here as a difference to read; `INSTA_UPDATE=always cargo test` takes it over.

// A test may fail by panicking; clippy knows tests by their attribute only, not by their folder.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use cofferdam::plan::{HostFacts, PlanInput, SandboxPlan, SourceKind, VmDefaults, bind_source};
use cofferdam_protocol::plan::StdioPlan;
use oci_spec::runtime::Spec;
use serde_json::Value;

const BUNDLE: &str = "/bundle";
const DEFAULTS: VmDefaults = VmDefaults {
    vcpus: 1,
    memory_mib: 512,
    overhead_mib: 64,
    max_vcpus: 1,
    max_memory_mib: 0,
    announced_vcpus_max: 1,
    announced_memory_max_mib: 4096,
};
const PIPES: StdioPlan = StdioPlan::Pipes { stdin: true, stdout: true, stderr: true };
const TERMINAL: StdioPlan = StdioPlan::Terminal { rows: 40, columns: 120, keep_line_feeds: false };

/// Bind sources whose name has a dot are files here, the others folders.
fn facts(spec: &Spec) -> HostFacts {
    let source = |mount| {
        let path = bind_source(mount, Path::new(BUNDLE))?;
        let named = path.file_name()?.to_string_lossy().into_owned();
        let file = named.contains('.') || named.starts_with("host");
        Some(if file { SourceKind::File } else { SourceKind::Folder })
    };
    let bind_sources = spec.mounts().iter().flatten().map(source).collect();
    HostFacts { bind_sources, ..HostFacts::default() }
}

fn plan(config: &str, stdio: StdioPlan) -> Value {
    let spec: Spec = serde_json::from_str(config).unwrap();
    let plan = SandboxPlan::new(&PlanInput {
        id: &"golden".parse().unwrap(),
        bundle: Path::new(BUNDLE),
        rootfs: Path::new("/bundle/rootfs"),
        spec: &spec,
        stdio,
        defaults: DEFAULTS,
        facts: &facts(&spec),
    })
    .unwrap();
    let mut value = serde_json::to_value(plan).unwrap();
    shorten_programs(&mut value);
    value
}

/// Programs are compared by the tests beside their generators; here their size is enough, and that
/// of a seccomp filter depends on the library's version.
fn shorten_programs(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), field.as_array().map(Vec::len)) {
                    ("program", Some(_)) => *field = "a filter".into(),
                    ("device_program", Some(length)) => {
                        *field = format!("{} instructions", length / 8).into();
                    }
                    _ => shorten_programs(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(shorten_programs),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn what_runc_spec_writes() {
    insta::assert_json_snapshot!(plan(include_str!("configs/runc-spec.json"), TERMINAL));
}

#[test]
fn a_container_of_docker() {
    insta::assert_json_snapshot!(plan(include_str!("configs/docker.json"), PIPES));
}

#[test]
fn a_container_of_podman() {
    insta::assert_json_snapshot!(plan(include_str!("configs/podman.json"), TERMINAL));
}
