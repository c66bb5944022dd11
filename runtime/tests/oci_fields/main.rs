//! The table of every field (`cofferdam::spec::fields`) against what it is about: the types that a
//! configuration is read into, the code that refuses, and `docs/oci.md`.
//!
//! `UPDATE=1 cargo nextest run -p cofferdam --test oci_fields` writes `docs/oci.md` anew.

// A test may fail by panicking; clippy knows tests by their attribute only, not by their folder.
#![allow(clippy::unwrap_used)]

mod page;
mod traced;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use cofferdam::plan;
use cofferdam::sandbox::namespace;
use cofferdam::spec::fields::{FIELDS, Field, Treatment, VALUES};
use oci_spec::runtime::Spec;
use serde_json::Value;

const FULL: &str = include_str!("full.json");

/// Sections for other systems: refused as a whole, whatever is in them.
const FOREIGN: [&str; 4] = ["solaris", "windows", "vm", "zos"];

/// What `oci-spec` reads beside the specification.
const NOT_SPECIFIED: [&str; 2] = ["uidMappings[]", "gidMappings[]"];

/// What `oci-spec` spells otherwise than the specification. All of it is in sections that both
/// modes refuse as a whole, so that nothing is passed over.
const SPELT_OTHERWISE: [(&str, &str); 2] = [
    ("linux.intelRdt.enableCmt", "linux.intelRdt.enableCMT"),
    ("linux.intelRdt.enableMbm", "linux.intelRdt.enableMBM"),
];

/// What is refused in each mode: path in the table's notation, and why.
type Refused = BTreeMap<String, String>;

fn fields() -> impl Iterator<Item = &'static Field> {
    FIELDS.into_iter().flatten()
}

fn table_paths() -> BTreeSet<String> {
    fields().map(|field| field.path.to_owned()).collect()
}

/// `mounts[1].options: idmap` as `mounts[].options`.
fn plain(path: &str) -> String {
    let path = path.split([' ', ':']).next().unwrap();
    path.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

fn refused_in_microvm(spec: &Spec) -> Refused {
    let refused = plan::unsupported(spec);
    refused.into_iter().map(|r| (plain(&r.field), r.reason.to_owned())).collect()
}

fn refused_in_namespaces(spec: &Spec) -> Refused {
    let refused = namespace::unsupported(spec);
    refused.into_iter().map(|r| (plain(&r.path), r.reason.to_owned())).collect()
}

/// The reason for a field: its own, or that of what it is in.
fn reason<'r>(refused: &'r Refused, path: &str) -> Option<&'r str> {
    let inside =
        |whole: &str| path.strip_prefix(whole).is_some_and(|rest| rest.starts_with(['.', '[']));
    refused
        .get(path)
        .or_else(|| refused.iter().find(|(whole, _)| inside(whole)).map(|(_, reason)| reason))
        .map(String::as_str)
}

#[track_caller]
fn agree(path: &str, mode: &str, treatment: Treatment, refused: &Refused) {
    let found = reason(refused, path);
    match treatment {
        Treatment::Refused(expected) => {
            assert_eq!(found, Some(expected), "{path} in {mode}: the table says it is refused");
        }
        // What the machine that this test runs on says is not the table's business.
        Treatment::Where(expected) => assert!(found.is_none_or(|found| found == expected)),
        Treatment::Guest | Treatment::Host | Treatment::Both | Treatment::Void(_) => {
            assert_eq!(found, None, "{path} in {mode}: the table says it is not refused");
        }
    }
}

#[test]
fn no_field_of_the_specification_is_missing() {
    let mut known = traced::paths_of::<Spec>();
    let first = |path: &String| path.split('.').next().unwrap().to_owned();
    known.retain(|path| !FOREIGN.contains(&&*first(path)));
    known.retain(|path| !NOT_SPECIFIED.contains(&&*first(path)));
    for (spelt, specified) in SPELT_OTHERWISE {
        assert!(known.remove(spelt) && known.insert(specified.to_owned()), "{spelt}");
    }
    let table = table_paths();
    let missing: Vec<_> = known.difference(&table).collect();
    let invented: Vec<_> = table.difference(&known).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "missing {missing:?}, invented {invented:?}"
    );
}

#[test]
fn the_full_document_sets_every_field() {
    let mut set = BTreeSet::new();
    leaves("", &serde_json::from_str(FULL).unwrap(), &table_paths(), &mut set);
    let table = table_paths();
    let missing: Vec<_> = table.difference(&set).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The paths of a document's values. Keys of a map are those that no field is named for.
fn leaves(path: &str, value: &Value, table: &BTreeSet<String>, found: &mut BTreeSet<String>) {
    let is_map = table.iter().any(|known| known.starts_with(&format!("{path}.*")));
    match value {
        _ if table.contains(path) => {
            found.insert(path.to_owned());
        }
        Value::Object(members) => {
            for (name, value) in members {
                let name = if is_map { "*" } else { name };
                let separator = if path.is_empty() { "" } else { "." };
                leaves(&format!("{path}{separator}{name}"), value, table, found);
            }
        }
        Value::Array(items) => {
            for item in items {
                leaves(&format!("{path}[]"), item, table, found);
            }
        }
        _ => panic!("{path} is not in the table"),
    }
}

#[test]
fn the_table_says_what_the_code_refuses() {
    let full: Spec = serde_json::from_str(FULL).unwrap();
    let (microvm, namespace) = (refused_in_microvm(&full), refused_in_namespaces(&full));
    for field in fields() {
        agree(field.path, "a microVM", field.microvm, &microvm);
        agree(field.path, "namespaces", field.namespace, &namespace);
    }
    // And nothing is refused that the table does not know.
    for path in microvm.keys().chain(namespace.keys()) {
        let known = |field: &Field| field.path == path || field.path.starts_with(path.as_str());
        assert!(fields().any(known), "{path} is refused and not in the table");
    }
}

#[test]
fn the_table_says_which_values_are_refused() {
    for value in VALUES {
        let mut document: Value = serde_json::from_str(cofferdam::spec::template::ROOTFUL).unwrap();
        merge(&mut document, serde_json::from_str(value.patch).unwrap());
        let spec: Spec = serde_json::from_value(document).unwrap();
        agree(value.path, "a microVM", value.microvm, &refused_in_microvm(&spec));
        agree(value.path, "namespaces", value.namespace, &refused_in_namespaces(&spec));
    }
}

/// RFC 7396, but that nothing is removed.
fn merge(document: &mut Value, patch: Value) {
    match (document, patch) {
        (Value::Object(members), Value::Object(patches)) => {
            for (name, patch) in patches {
                merge(members.entry(name).or_insert(Value::Null), patch);
            }
        }
        (document, patch) => *document = patch,
    }
}

#[test]
fn the_page_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/oci.md");
    let page = page::render();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/oci.md is not what the table says: UPDATE=1 writes it anew");
}
