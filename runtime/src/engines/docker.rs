//! Docker's `daemon.json`: `{"runtimes": {NAME: {"path": …, "runtimeArgs": […]}}}`.

use std::path::Path;

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstRootNode};
use serde_json::{Map, Value};

use super::{EditError, Entry, PROGRAM, RuntimeName};

const RUNTIMES: &str = "runtimes";
const DEFAULT: &str = "default-runtime";
const PATH: &str = "path";
const ARGUMENTS: &str = "runtimeArgs";

pub(super) fn find(text: &str, name: &RuntimeName) -> Result<Option<Entry>, EditError> {
    let document = parse(text)?;
    let Some(runtimes) = document.get(RUNTIMES) else { return Ok(None) };
    let runtimes = runtimes.as_object().ok_or_else(|| not_an_object(RUNTIMES))?;
    let Some(found) = runtimes.get(name.as_str()) else { return Ok(None) };
    let foreign =
        || EditError::Foreign { key: format!("{RUNTIMES}.{name}"), found: found.to_string() };
    entry(name, found).ok_or_else(foreign).map(Some)
}

pub(super) fn add(text: &str, entry: &Entry) -> Result<String, EditError> {
    if find(text, &entry.name)?.as_ref() == Some(entry) {
        return Ok(text.to_owned());
    }
    let tree = tree(if text.trim().is_empty() { "{}\n" } else { text })?;
    let runtimes = tree.object_value().and_then(|root| root.object_value_or_create(RUNTIMES));
    let runtimes = runtimes.ok_or(EditError::Unsafe)?;
    match runtimes.get(entry.name.as_str()) {
        Some(present) => present.set_value(value(entry)),
        None => drop(runtimes.append(entry.name.as_str(), value(entry))),
    }
    Ok(tree.to_string())
}

pub(super) fn remove(text: &str, name: &RuntimeName) -> Result<String, EditError> {
    if parse(text)?.get(DEFAULT).and_then(Value::as_str) == Some(name.as_str()) {
        return Err(EditError::IsDefault { key: DEFAULT.to_owned(), name: name.clone() });
    }
    let tree = tree(text)?;
    let root = tree.object_value().ok_or(EditError::Unsafe)?;
    let runtimes = root.object_value(RUNTIMES).ok_or(EditError::Unsafe)?;
    runtimes.get(name.as_str()).ok_or(EditError::Unsafe)?.remove();
    if runtimes.properties().is_empty() {
        root.get(RUNTIMES).ok_or(EditError::Unsafe)?.remove();
    }
    Ok(tree.to_string())
}

/// As Docker reads it, which takes nothing for an empty object.
fn parse(text: &str) -> Result<Map<String, Value>, EditError> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(text).map_err(EditError::Json)? {
        Value::Object(document) => Ok(document),
        _ => Err(not_an_object("The document")),
    }
}

fn not_an_object(key: &str) -> EditError {
    EditError::Type { key: key.to_owned(), expected: "an object" }
}

/// With its white space. More lenient than JSON, which is why [`parse`] comes first.
fn tree(text: &str) -> Result<CstRootNode, EditError> {
    CstRootNode::parse(text, &ParseOptions::default()).map_err(|_| EditError::Unsafe)
}

/// What we write, and no more than that.
fn entry(name: &RuntimeName, found: &Value) -> Option<Entry> {
    let found = found.as_object()?;
    let program = found.get(PATH)?.as_str()?.to_owned();
    let is_ours = Path::new(&program).file_name()? == PROGRAM
        && found.keys().all(|key| [PATH, ARGUMENTS].contains(&key.as_str()));
    let arguments = match found.get(ARGUMENTS) {
        Some(arguments) => arguments.as_array()?.as_slice(),
        None => &[],
    };
    let arguments: Option<Vec<String>> =
        arguments.iter().map(|argument| argument.as_str().map(str::to_owned)).collect();
    is_ours.then_some(Entry { name: name.clone(), program, arguments: arguments? })
}

fn value(entry: &Entry) -> CstInputValue {
    let mut members = vec![(PATH.to_owned(), CstInputValue::String(entry.program.clone()))];
    if !entry.arguments.is_empty() {
        let arguments = entry.arguments.iter().cloned().map(CstInputValue::String).collect();
        members.push((ARGUMENTS.to_owned(), CstInputValue::Array(arguments)));
    }
    CstInputValue::Object(members)
}
