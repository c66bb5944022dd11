//! A file of our own in `/etc/containers/containers.conf.d`, which Podman and Buildah read after
//! `containers.conf`: `[engine.runtimes] NAME = [PATH]`. All of it is ours, or none.

use std::path::PathBuf;

use toml_edit::Value;

use super::{EditError, Entry, PROGRAM, RuntimeName, parse_toml};

const FOLDER: &str = "/etc/containers/containers.conf.d";

/// One file for each name.
pub(super) fn file(name: &RuntimeName) -> PathBuf {
    let name = match name.as_str() {
        PROGRAM => PROGRAM.to_owned(),
        other => format!("{PROGRAM}-{other}"),
    };
    PathBuf::from(FOLDER).join(format!("{name}.conf"))
}

pub(super) fn find(text: &str, name: &RuntimeName) -> Result<Option<Entry>, EditError> {
    if text.is_empty() {
        return Ok(None);
    }
    let document = parse_toml(text)?;
    let runtimes = document.get("engine").and_then(|engine| engine.get("runtimes"));
    let program = runtimes.and_then(|runtimes| runtimes.get(name.as_str())?.get(0)?.as_str());
    let entry = program.map(|program| Entry {
        name: name.clone(),
        program: program.to_owned(),
        arguments: vec![],
    });
    match entry {
        Some(entry) if whole_file(&entry) == text => Ok(Some(entry)),
        _ => Err(EditError::ForeignFile),
    }
}

pub(super) fn add(text: &str, entry: &Entry) -> Result<String, EditError> {
    if !entry.arguments.is_empty() {
        return Err(EditError::Arguments {
            engine: "podman",
            arguments: entry.arguments.clone(),
            remedy: "/etc/cofferdam/config.toml says it, or `podman --runtime-flag`",
        });
    }
    find(text, &entry.name)?;
    Ok(whole_file(entry))
}

/// Whatever [`find`] takes for ours is so wholly.
pub(super) fn remove(text: &str, name: &RuntimeName) -> Result<String, EditError> {
    find(text, name)?;
    Ok(String::new())
}

fn whole_file(Entry { name, program, .. }: &Entry) -> String {
    let program = Value::from(program.as_str());
    format!("# Written by `cofferdam install --podman`.\n[engine.runtimes]\n{name} = [{program}]\n")
}
