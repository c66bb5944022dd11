//! What makes Cofferdam a runtime of an engine: an entry in the engine's configuration file, put in
//! and taken out again.
//!
//! ```text
//!  install    text of the file ─▶ add ────────────────────────▶ text with the entry
//!  uninstall  text of the file ─▶ is it what `add` made of the
//!                                 backup, or of nothing?  yes ─▶ the backup, or no file
//!                                 no: the operator edited it ──▶ remove ─▶ text without the entry
//! ```
//!
//! Pure: text to text. What an operator wrote keeps its order, comments and layout. A file that does
//! not parse, or says something else where the entry belongs, is refused; and so is a runtime of the
//! same name that is not ours. Nothing here looks at the machine or restarts an engine.

mod containerd;
mod docker;
mod name;
mod podman;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use name::{InvalidRuntimeName, RuntimeName};

/// Our program's name: what tells an entry of ours from one of another runtime.
const PROGRAM: &str = "cofferdam";

/// A program that runs containers with a runtime that it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// containerd, for Kubernetes.
    Containerd,
    /// Docker Engine.
    Docker,
    /// Podman and Buildah.
    Podman,
}

/// A runtime as an engine's configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What users call it.
    pub name: RuntimeName,
    /// The program's path. containerd has the shim's type in its place.
    pub program: String,
    /// What the program is told before the verb.
    pub arguments: Vec<String>,
}

/// What is to be done with an engine's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// It is as it should be.
    Nothing,
    /// It gets another text.
    Write {
        /// Which.
        text: String,
        /// What it is now has nothing of ours, and is worth keeping.
        keeps_backup: bool,
    },
    /// It becomes what it was before.
    Restore,
    /// There was none before.
    Remove,
}

/// Why a file is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// Docker refuses it too.
    #[error("It is not JSON")]
    Json(#[source] serde_json::Error),
    /// The engine refuses it too.
    #[error("It is not TOML: line {line}: {message}")]
    Toml {
        /// Where.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// Some versions of the engines take it for a part of the text.
    #[error("It begins with a byte order mark")]
    ByteOrderMark,
    /// A value of the wrong kind.
    #[error("{key} is not {expected}")]
    Type {
        /// Which.
        key: String,
        /// What it must be.
        expected: &'static str,
    },
    /// containerd's configuration in another version.
    #[error(
        "It is of version {0}: only 2 and 3 are edited. `containerd config default` shows how one looks"
    )]
    Version(String),
    /// Not ours.
    #[error("{key} is another runtime's ({found}): take it away, or choose another --name")]
    Foreign {
        /// The entry.
        key: String,
        /// What it says.
        found: String,
    },
    /// The whole file is ours, or none of it.
    #[error("It says something else than `install` writes: move it away")]
    ForeignFile,
    /// The engine would not start.
    #[error("{key} is {name}: choose another default first")]
    IsDefault {
        /// The setting.
        key: String,
        /// The runtime.
        name: RuntimeName,
    },
    /// An engine that has no place for them.
    #[error("{engine} passes no flags to a runtime ({}): {remedy}", .arguments.join(" "))]
    Arguments {
        /// Which.
        engine: &'static str,
        /// The flags.
        arguments: Vec<String>,
        /// What to do.
        remedy: &'static str,
    },
    /// What came out is not what was meant.
    #[error("It can be read, but not edited safely (a name that is there twice?): edit it by hand")]
    Unsafe,
}

impl Engine {
    /// As users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    /// The file that has the entry.
    #[must_use]
    pub fn file(self, name: &RuntimeName) -> PathBuf {
        match self {
            Self::Containerd => "/etc/containerd/config.toml".into(),
            Self::Docker => "/etc/docker/daemon.json".into(),
            Self::Podman => podman::file(name),
        }
    }

    fn find(self, text: &str, name: &RuntimeName) -> Result<Option<Entry>, EditError> {
        match self {
            Self::Containerd => containerd::find(text, name),
            Self::Docker => docker::find(text, name),
            Self::Podman => podman::find(text, name),
        }
    }

    fn add(self, text: &str, entry: &Entry) -> Result<String, EditError> {
        match self {
            Self::Containerd => containerd::add(text, entry),
            Self::Docker => docker::add(text, entry),
            Self::Podman => podman::add(text, entry),
        }
    }

    fn remove(self, text: &str, name: &RuntimeName) -> Result<String, EditError> {
        match self {
            Self::Containerd => containerd::remove(text, name),
            Self::Docker => docker::remove(text, name),
            Self::Podman => podman::remove(text, name),
        }
    }
}

/// How the file (`None`: there is none) gets this entry.
///
/// # Errors
/// When it cannot be read, or has another runtime of that name.
pub fn install(engine: Engine, current: Option<&str>, entry: &Entry) -> Result<Edit, EditError> {
    let before = readable(current)?;
    let text = engine.add(before, entry)?;
    // What was written is what is found, and a second time there is nothing to do.
    if engine.find(&text, &entry.name)?.is_none() || engine.add(&text, entry)? != text {
        return Err(EditError::Unsafe);
    }
    if current == Some(text.as_str()) {
        return Ok(Edit::Nothing);
    }
    let keeps_backup = current.is_some() && engine.find(before, &entry.name)?.is_none();
    Ok(Edit::Write { text, keeps_backup })
}

/// How the file loses the entry of this name, given what it was before it had one, if that is known.
///
/// # Errors
/// When it cannot be read, or the entry is not ours, or the engine could not be without it.
pub fn uninstall(
    engine: Engine,
    current: Option<&str>,
    backup: Option<&str>,
    name: &RuntimeName,
) -> Result<Edit, EditError> {
    let text = readable(current)?;
    let Some(entry) = engine.find(text, name)? else { return Ok(Edit::Nothing) };
    // Also where the rest is taken away: what it refuses is refused.
    let without = engine.remove(text, name)?;
    let is_made_of = |before: &str| engine.add(before, &entry).is_ok_and(|made| made == text);
    match backup {
        Some(backup) if is_made_of(backup) => Ok(Edit::Restore),
        None if is_made_of("") => Ok(Edit::Remove),
        _ if engine.find(&without, name)?.is_some() => Err(EditError::Unsafe),
        _ => Ok(Edit::Write { text: without, keeps_backup: false }),
    }
}

fn readable(current: Option<&str>) -> Result<&str, EditError> {
    let text = current.unwrap_or_default();
    if text.starts_with('\u{feff}') { Err(EditError::ByteOrderMark) } else { Ok(text) }
}

/// TOML whose comments and order stay.
fn parse_toml(text: &str) -> Result<toml_edit::DocumentMut, EditError> {
    text.parse().map_err(|error: toml_edit::TomlError| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
        EditError::Toml { line, message: error.message().replace('\n', ", ") }
    })
}
