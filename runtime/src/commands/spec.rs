//! `spec`: a starter configuration in a bundle.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cli::SpecArgs;
use crate::spec::template;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum WriteSpecError {
    /// Nothing is overwritten. The words are runc's.
    #[error("File {0} exists. Remove it first")]
    Exists(PathBuf),
    /// The bundle refuses.
    #[error("Cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

pub(super) fn run(args: &SpecArgs) -> Result<(), WriteSpecError> {
    let path = args.bundle.join("config.json");
    let path = path.strip_prefix(".").map(Path::to_path_buf).unwrap_or(path);
    let text = if args.rootless {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        template::rootless(uid.as_raw(), gid.as_raw())
    } else {
        template::ROOTFUL.to_owned()
    };
    let written = File::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => WriteSpecError::Exists(path),
        _ => WriteSpecError::Write { path, source },
    })
}
