//! Where things are: the repository, what cargo builds, what we assemble, and the cache.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// The runnable tree. `COFFERDAM_OUT` moves it.
pub(crate) fn assembled() -> PathBuf {
    env::var_os("COFFERDAM_OUT")
        .map_or_else(|| root().join("target/cofferdam"), |folder| root().join(folder))
}

/// What is expensive to make and depends on its inputs only: kernels, root file systems, the lab's
/// initramfs. `COFFERDAM_CACHE` moves it.
pub(crate) fn cache() -> PathBuf {
    env::var_os("COFFERDAM_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/cofferdam"), |folder| root().join(folder))
}

/// A cargo command on this workspace, by the cargo that runs us.
pub(crate) fn cargo(verb: &str) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.arg(verb).current_dir(root());
    command
}

/// This program's path, for starting it again elsewhere. Cargo may have put a new build of it in
/// its place, which the kernel then says.
pub(crate) fn own_program() -> std::io::Result<PathBuf> {
    let path = env::current_exe()?;
    Ok(match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) => PathBuf::from(path),
        None => path,
    })
}
