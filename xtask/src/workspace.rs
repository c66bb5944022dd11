//! Where things are: the repository, what cargo builds, what we assemble, and the cache.

use std::env;
use std::path::{Path, PathBuf};

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    // The manifest of xtask lies one folder below it.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds.
pub(crate) fn cargo_target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// What is expensive to make and depends on its inputs only: kernels, root file systems, the lab's
/// initramfs. `COFFERDAM_CACHE` moves it.
pub(crate) fn cache() -> PathBuf {
    env::var_os("COFFERDAM_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/cofferdam"), PathBuf::from)
}
