//! What the operator is told: what was done, and what is to be done now.

use std::env;
use std::path::{Path, PathBuf};

use super::file::Backup;
use crate::engines::{Edit, Engine, RuntimeName};

const SHIM: &str = "containerd-shim-cofferdam-v2";
/// The `PATH` of systemd's services, and so containerd's.
const SERVICE_PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Below the difference, when only that was asked for.
pub(super) fn dry(engine: Engine, path: &Path, edit: &Edit) -> String {
    match edit {
        Edit::Nothing => nothing(engine, path),
        _ => format!("{}: --dry-run: nothing is written\n", engine.name()),
    }
}

/// What became of the file.
pub(super) fn done(engine: Engine, path: &Path, edit: &Edit, backup: &Backup) -> String {
    let what = match edit {
        Edit::Nothing => return nothing(engine, path),
        Edit::Write { .. } => "is written",
        Edit::Restore => "is what it was before",
        Edit::Remove => "is removed: there was none before",
    };
    let copy = match backup {
        Backup::Untouched | Backup::Removed => String::new(),
        Backup::Made(copy) => format!("; as it was: {}", copy.display()),
        Backup::Kept(copy) => format!("; an older copy is kept: {}", copy.display()),
    };
    format!("{}: {} {what}{copy}\n", engine.name(), path.display())
}

fn nothing(engine: Engine, path: &Path) -> String {
    format!("{}: {} is as it should be: nothing to do\n", engine.name(), path.display())
}

/// What makes the engine see it, and how to try it.
pub(super) fn next(engine: Engine, name: &RuntimeName, uninstall: bool) -> String {
    let (restart, attempt) = match engine {
        Engine::Containerd => (
            "systemctl restart containerd",
            format!("a RuntimeClass with `handler: {name}` (docs/containerd.md)"),
        ),
        Engine::Docker => (
            "systemctl reload docker",
            format!("docker run --rm --runtime {name} busybox uname -v"),
        ),
        Engine::Podman => (
            "nothing is to be restarted",
            format!("podman --runtime {name} run --rm busybox uname -v"),
        ),
    };
    let engine = engine.name();
    match uninstall {
        true => format!("{engine}: now: {restart}\n"),
        false => format!("{engine}: now: {restart}\n{engine}: then: {attempt}\n"),
    }
}

/// containerd starts the shim by its name.
pub(super) fn warn_without_shim(root: &Path) {
    if has_shim(root) {
        return;
    }
    let remedy = match beside_this_program() {
        Some(shim) => format!("ln -s {} {}/", shim.display(), SERVICE_PATH[1]),
        None => "`make install`".to_owned(),
    };
    tracing::warn!("{SHIM} is in no folder of containerd's PATH: {remedy}");
}

fn has_shim(root: &Path) -> bool {
    let within = |folder: &str| root.join(folder.trim_start_matches('/'));
    SERVICE_PATH.iter().any(|folder| within(folder).join(SHIM).exists())
}

fn beside_this_program() -> Option<PathBuf> {
    let shim = env::current_exe().ok()?.with_file_name(SHIM);
    shim.exists().then_some(shim)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_shim_is_looked_for_where_containerd_does_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        assert!(!has_shim(root.path()));
        let folder = root.path().join("usr/bin");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(SHIM), "").unwrap();
        assert!(has_shim(root.path()));
    }
}
