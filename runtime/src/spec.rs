//! `config.json`: read with a bound on its size, parsed, and checked before anything is done.
//!
//! ```text
//!   bytes ─ load ─▶ Spec ─ rules ──▶ a container could be this
//!                         ─ rootfs ─▶ its root is a folder, where it says
//! ```
//!
//! What this is not: it fills in nothing and decides nothing. Unknown properties are ignored, as
//! the OCI specification demands; what one kind of sandbox cannot honour is that kind's to refuse by name.
//!
//! Hostile: nothing, the bundle is the operator's. But the root file system in it is the tenant's:
//! no path inside it is looked at here.

pub mod cpu_list;
pub mod fields;
mod lenient;
pub mod memory_policy;
pub mod process;
pub mod resources;
pub mod rootfs;
pub mod rules;
pub mod template;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::de::DeserializeOwned;

/// The configuration in a bundle, and its copy in a state folder.
const CONFIG: &str = "config.json";

/// A plan made from it must fit in one request to the agent (3 MiB); Linux itself takes at most
/// 2 MiB of arguments and environment. A larger file is a mistake, and would be memory for nothing.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// A configuration as it was read.
#[derive(Clone, Debug)]
pub struct LoadedSpec {
    /// What it says.
    pub spec: Spec,
    /// The file, for the copy; without what is passed over.
    pub bytes: Vec<u8>,
}

/// Why a configuration cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file cannot be read.
    #[error("Cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is too large to be a configuration.
    #[error("{path} is over the bound of {MAX_CONFIG_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what it should be.
    #[error("{path} does not parse at {field}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// JSON path of the value.
        field: String,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// The memory policy is none.
    #[error(transparent)]
    MemoryPolicy(#[from] memory_policy::InvalidMemoryPolicy),
    /// The copy cannot be written.
    #[error("Cannot write {path}")]
    Copy {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Reads a bundle's configuration.
///
/// # Errors
/// When it is missing, too large, or not a configuration.
pub fn load(bundle: &Path) -> Result<LoadedSpec, SpecError> {
    let path = bundle.join(CONFIG);
    let bytes = read_cleaned(&path)?;
    let spec = parse(&path, &bytes)?;
    Ok(LoadedSpec { spec, bytes })
}

/// Writes the copy that later verbs read: the bundle may change or go.
///
/// # Errors
/// When the state folder refuses.
pub fn write_copy(state_folder: &Path, bytes: &[u8]) -> Result<(), SpecError> {
    let path = state_folder.join(CONFIG);
    crate::host::replace::replace_file(&path, bytes, 0o600)
        .map_err(|source| SpecError::Copy { path, source })
}

/// Replaces the copy by what is so from now on.
///
/// # Errors
/// When the state folder refuses.
pub fn replace_copy(state_folder: &Path, spec: &Spec) -> Result<(), SpecError> {
    let bytes = serde_json::to_vec(spec).map_err(|error| SpecError::Copy {
        path: state_folder.join(CONFIG),
        source: error.into(),
    })?;
    write_copy(state_folder, &bytes)
}

/// Reads a part of a configuration from standard input.
///
/// # Errors
/// When it is too large or something else.
pub fn read_standard_input<T: DeserializeOwned>() -> Result<T, SpecError> {
    let path = Path::new("standard input");
    parse(path, &read_all(path, io::stdin().lock())?)
}

/// Reads the copy that `create` put into a state folder.
///
/// # Errors
/// When it is gone or damaged.
pub fn read_copy(state_folder: &Path) -> Result<Spec, SpecError> {
    read_document(&state_folder.join(CONFIG))
}

/// Reads any part of a configuration that is in a file of its own (`exec --process`).
///
/// # Errors
/// When it is missing, too large, or something else.
pub fn read_document<T: DeserializeOwned>(path: &Path) -> Result<T, SpecError> {
    parse(path, &read_cleaned(path)?)
}

fn read_cleaned(path: &Path) -> Result<Vec<u8>, SpecError> {
    cleaned(read_bounded(path)?)
}

/// The document as the types read it.
pub(crate) fn cleaned(bytes: Vec<u8>) -> Result<Vec<u8>, SpecError> {
    // What is no JSON is the parser's to complain about.
    let Ok(document) = serde_json::from_slice(&bytes) else { return Ok(bytes) };
    memory_policy::check(&document)?;
    Ok(lenient::clean(document).unwrap_or(bytes))
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, SpecError> {
    let file =
        File::open(path).map_err(|source| SpecError::Read { path: path.to_path_buf(), source })?;
    read_all(path, file)
}

fn read_all(path: &Path, from: impl Read) -> Result<Vec<u8>, SpecError> {
    let mut bytes = Vec::new();
    from.take(MAX_CONFIG_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| SpecError::Read { path: path.to_path_buf(), source })?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(SpecError::TooLarge { path: path.to_path_buf() });
    }
    Ok(bytes)
}

/// Parses; only a document that does not parse is read a second time, for the place.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, SpecError> {
    serde_json::from_slice(bytes).map_err(|first| {
        let mut again = serde_json::Deserializer::from_slice(bytes);
        let (field, source) = match serde_path_to_error::deserialize::<_, T>(&mut again) {
            Err(error) => (error.path().to_string(), error.into_inner()),
            // A whole document with something behind it.
            Ok(_) => (".".to_owned(), first),
        };
        SpecError::Parse { path: path.to_path_buf(), field, source }
    })
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::fs;

    use super::*;

    fn load_text(text: &str) -> Result<LoadedSpec, SpecError> {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join(CONFIG), text).unwrap();
        load(bundle.path())
    }

    #[test]
    fn a_wrong_type_is_named_by_path_line_and_column() {
        let error =
            load_text("{\"ociVersion\": \"1.0.2\",\n \"root\": {\"path\": 7}}").unwrap_err();
        assert!(error.to_string().ends_with("config.json does not parse at root.path"));
        let source = error.source().unwrap().to_string();
        assert!(source.contains("line 2 column"), "{source}");
    }

    #[test]
    fn garbage_behind_the_document_is_refused() {
        assert!(matches!(load_text("{\"ociVersion\": \"1.0.2\"} x"), Err(SpecError::Parse { .. })));
    }

    #[test]
    fn names_are_spelt_as_the_specification_has_them() {
        let scheduler = |flag: &str| {
            let text = r#"{"ociVersion":"1.0.2","process":{"cwd":"/","user":{"uid":0,"gid":0},
                "scheduler":{"policy":"SCHED_OTHER","flags":["FLAG"]}}}"#;
            load_text(&text.replace("FLAG", flag))
        };
        for flag in ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_RECLAIM"] {
            scheduler(flag).unwrap();
        }
        let error = scheduler("SCHED_FLAG_DL_OVERRUN\",\"SCHED_FLAG_X").unwrap_err();
        assert!(error.to_string().ends_with("at process.scheduler.flags[1]"), "{error}");
    }

    #[test]
    fn an_empty_file_and_a_missing_one_differ() {
        assert!(matches!(load_text(""), Err(SpecError::Parse { .. })));
        let nowhere = tempfile::tempdir().unwrap();
        assert!(matches!(load(nowhere.path()), Err(SpecError::Read { .. })));
    }

    #[test]
    fn a_huge_file_is_refused_unparsed() {
        let text = " ".repeat(usize::try_from(MAX_CONFIG_BYTES).unwrap() + 1);
        assert!(matches!(load_text(&text), Err(SpecError::TooLarge { .. })));
    }
}
