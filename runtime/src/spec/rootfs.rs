//! Where the container's root file system is on the host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a root file system cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// `root.path` leads nowhere.
    #[error("Cannot find the root file system {path} (root.path)")]
    Missing {
        /// As the configuration has it, in the bundle.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a folder.
    #[error("The root file system {path} (root.path) is not a folder")]
    NotFolder {
        /// With symbolic links followed.
        path: PathBuf,
    },
    /// A relative path that ends outside.
    #[error("The root file system (root.path) is outside of the bundle: {path} is {resolved}")]
    OutsideBundle {
        /// As the configuration has it, in the bundle.
        path: PathBuf,
        /// With symbolic links followed.
        resolved: PathBuf,
    },
}

/// The absolute path of the root file system, symbolic links followed. A relative path is the
/// bundle's own and must stay in it; an absolute one is the operator's choice.
///
/// # Errors
/// When there is no folder, or a relative path leaves the bundle.
pub fn resolve(bundle: &Path, root_path: &Path) -> Result<PathBuf, RootfsError> {
    let path = bundle.join(root_path);
    let missing = |source| RootfsError::Missing { path: path.clone(), source };
    let resolved = fs::canonicalize(&path).map_err(missing)?;
    if root_path.is_relative() && !resolved.starts_with(bundle) {
        return Err(RootfsError::OutsideBundle { path, resolved });
    }
    if !fs::metadata(&resolved).map_err(missing)?.is_dir() {
        return Err(RootfsError::NotFolder { path: resolved });
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn bundle() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().canonicalize().unwrap().join("bundle");
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        fs::create_dir(folder.path().join("elsewhere")).unwrap();
        (folder, bundle)
    }

    #[test]
    fn a_folder_in_the_bundle_serves_directly_or_by_a_link() {
        let (_guard, bundle) = bundle();
        symlink("rootfs", bundle.join("link")).unwrap();
        let expected = bundle.join("rootfs");
        assert_eq!(resolve(&bundle, Path::new("rootfs")).unwrap(), expected);
        assert_eq!(resolve(&bundle, Path::new("link")).unwrap(), expected);
        assert_eq!(resolve(&bundle, &expected).unwrap(), expected);
    }

    #[test]
    fn a_relative_path_must_not_leave_the_bundle() {
        let (_guard, bundle) = bundle();
        symlink("../elsewhere", bundle.join("link")).unwrap();
        for path in ["link", "../elsewhere"] {
            let error = resolve(&bundle, Path::new(path)).unwrap_err();
            assert!(matches!(error, RootfsError::OutsideBundle { .. }), "{path}");
        }
    }

    #[test]
    fn an_absolute_path_may_be_anywhere() {
        let (guard, bundle) = bundle();
        let elsewhere = guard.path().join("elsewhere");
        assert!(resolve(&bundle, &elsewhere).is_ok());
    }

    #[test]
    fn nothing_and_a_file_differ() {
        let (_guard, bundle) = bundle();
        fs::write(bundle.join("file"), "").unwrap();
        let error = |path| resolve(&bundle, Path::new(path)).unwrap_err();
        assert!(matches!(error("none"), RootfsError::Missing { .. }));
        assert!(matches!(error("file"), RootfsError::NotFolder { .. }));
    }
}
