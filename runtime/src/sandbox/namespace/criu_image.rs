//! The image of a container in namespaces: a folder with CRIU's files, and beside them what CRIU does
//! not know: what the container may do, and what of it comes from the host.
//!
//! ```text
//!  old manifest removed ─▶ CRIU writes *.img ─▶ container still stopped: manifest written ─▶ killed
//! ```
//!
//! Without the manifest it is no image: a checkpoint that fails leaves none.
//!
//! Hostile: nothing. An image that others could have written is refused: CRIU does with it what it
//! says, as root.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::confinement::{Confinement, Observed};
use super::mount_table::{External, MountFacts};
use crate::host::own_file;
use crate::host::replace::replace_file;

const MANIFEST: &str = "cofferdam.json";

/// As runc leaves it, for those who look there: what the standard streams were.
const DESCRIPTORS: &str = "descriptors.json";

/// Of the manifest's format.
const VERSION: u32 = 1;

/// CRIU's link to an earlier image, and how many there may be.
const EARLIER: &str = "parent";
const MAX_EARLIER: usize = 256;

/// A line or so for each thread and mount.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// What CRIU does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    version: u32,
    /// What was asked for.
    pub(super) confinement: Confinement,
    /// What there was.
    pub(super) observed: Observed,
    /// The mounts, and which of their places are no folders.
    pub(super) mounts: Vec<MountFacts>,
    pub(super) files: Vec<PathBuf>,
    pub(super) external: Vec<External>,
    /// What CRIU calls the three standard streams, where they come from outside.
    pub(super) streams: [Option<String>; 3],
    /// The permissions of those that are FIFOs, as containerd's are: CRIU takes only another one with
    /// the same in such a place. Images of before there were any have none.
    #[serde(default)]
    pub(super) fifo_modes: [Option<u32>; 3],
    pub(super) has_terminal: bool,
}

impl Manifest {
    /// Of this version.
    pub(super) fn new(confinement: Confinement, has_terminal: bool) -> Self {
        Self {
            version: VERSION,
            confinement,
            observed: Observed::default(),
            mounts: Vec::new(),
            files: Vec::new(),
            external: Vec::new(),
            streams: [None, None, None],
            fifo_modes: [None; 3],
            has_terminal,
        }
    }
}

/// Why an image was not written, or cannot be gone on from.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file or folder.
    #[error("Cannot {action} {}", .path.display())]
    Io {
        /// Make, open, ...
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else could have written it.
    #[error(
        "{} is not the caller's own, or others may write to it: what is in an image is done as root. Make it yours (chown, chmod go-w)",
        .0.display()
    )]
    NotOwn(PathBuf),
    /// No image, or one of a microVM, or one that is not whole.
    #[error("{} is not the image of a container in namespaces: it has no {MANIFEST}", .0.display())]
    None(PathBuf),
    /// Damaged.
    #[error("{} is damaged", .path.display())]
    Damaged {
        /// The manifest.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Another version.
    #[error("The image has version {0}, and this runtime reads {VERSION}")]
    Version(u32),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_path_buf();
    move |source| ImageError::Io { action, path, source }
}

/// An image that is being written. Dropped before it is finished, it is none.
#[derive(Debug)]
pub(super) struct Draft {
    folder: PathBuf,
    /// For CRIU.
    pub(super) opened: File,
    /// Its work files and logs.
    pub(super) work: File,
    /// Where those are.
    pub(super) work_path: PathBuf,
    finished: bool,
}

impl Draft {
    /// Begins in a folder, which is made if need be. What image there was is none from here on.
    pub(super) fn begin(folder: &Path, work: Option<&Path>) -> Result<Self, ImageError> {
        let opened = make_folder(folder)?;
        let manifest = folder.join(MANIFEST);
        match fs::remove_file(&manifest) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("replace", &manifest)(e));
            }
            _ => {}
        }
        let work_path = work.unwrap_or(folder).to_path_buf();
        let work = make_folder(&work_path)?;
        Ok(Self { folder: folder.to_path_buf(), opened, work, work_path, finished: false })
    }

    /// CRIU has written its files, and the container still stands.
    pub(super) fn write(
        &self,
        manifest: &Manifest,
        descriptors: &[String],
    ) -> Result<(), ImageError> {
        self.write_one(DESCRIPTORS, &descriptors)?;
        self.write_one(MANIFEST, manifest)
    }

    fn write_one(&self, name: &str, content: &impl Serialize) -> Result<(), ImageError> {
        let path = self.folder.join(name);
        let bytes = serde_json::to_vec(content)
            .map_err(|source| ImageError::Damaged { path: path.clone(), source })?;
        replace_file(&path, &bytes, 0o600).map_err(io_error("write", &path))
    }

    /// It is an image now.
    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(self.folder.join(MANIFEST));
        }
    }
}

/// An image to go on from.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) manifest: Manifest,
    pub(super) opened: File,
    pub(super) work: File,
    pub(super) work_path: PathBuf,
}

impl Image {
    /// Opens what a checkpoint has written.
    pub(super) fn open(folder: &Path, work: Option<&Path>) -> Result<Self, ImageError> {
        let opened = File::open(folder).map_err(io_error("open", folder))?;
        check_own(folder, &opened)?;
        let manifest = read_manifest(folder)?;
        check_files(folder)?;
        let work_path = work.unwrap_or(folder).to_path_buf();
        let work = make_folder(&work_path)?;
        Ok(Self { manifest, opened, work, work_path })
    }
}

/// Those of an image, and of the earlier ones that it builds on.
fn check_files(folder: &Path) -> Result<(), ImageError> {
    let mut folder = folder.to_path_buf();
    for _ in 0..MAX_EARLIER {
        for entry in fs::read_dir(&folder).map_err(io_error("read", &folder))?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "img") {
                check_own(&path, &open_own(&path)?)?;
            }
        }
        folder.push(EARLIER);
        if !folder.exists() {
            return Ok(());
        }
        check_own(&folder, &File::open(&folder).map_err(io_error("open", &folder))?)?;
    }
    Err(ImageError::NotOwn(folder))
}

fn make_folder(folder: &Path) -> Result<File, ImageError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).map_err(io_error("make", folder))?;
    File::open(folder).map_err(io_error("open", folder))
}

fn read_manifest(folder: &Path) -> Result<Manifest, ImageError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let path = folder.join(MANIFEST);
    let file = match open_own(&path) {
        Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(ImageError::None(folder.to_path_buf()));
        }
        other => other?,
    };
    check_own(&path, &file)?;
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes).map_err(io_error("read", &path))?;
    let damaged = |source| ImageError::Damaged { path: path.clone(), source };
    let Versioned { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if version != VERSION {
        return Err(ImageError::Version(version));
    }
    serde_json::from_slice(&bytes).map_err(damaged)
}

fn open_own(path: &Path) -> Result<File, ImageError> {
    own_file::open(path).map_err(io_error("open", path))
}

/// Nobody else may write to it.
fn check_own(path: &Path, file: &File) -> Result<(), ImageError> {
    const OTHERS_MAY_WRITE: u32 = 0o022;
    let seen = file.metadata().map_err(io_error("look at", path))?;
    if own_file::is_own(&seen, OTHERS_MAY_WRITE) {
        Ok(())
    } else {
        Err(ImageError::NotOwn(path.to_path_buf()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn manifest() -> Manifest {
        Manifest::new(Confinement::default(), false)
    }

    fn written(folder: &Path) {
        let draft = Draft::begin(folder, None).unwrap();
        draft.write(&manifest(), &["pipe:[1]".to_owned()]).unwrap();
        draft.finish();
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        assert_eq!(Image::open(folder.path(), None).unwrap().manifest, manifest());
    }

    #[test]
    fn a_checkpoint_that_fails_leaves_no_image() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let draft = Draft::begin(folder.path(), None).unwrap();
        draft.write(&manifest(), &[]).unwrap();
        drop(draft);
        let refused = Image::open(folder.path(), None).unwrap_err().to_string();
        assert!(refused.contains(folder.path().to_str().unwrap()), "{refused}");
    }

    #[test]
    fn an_image_that_others_may_write_to_is_none() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let image = folder.path().join("core-1.img");
        fs::write(&image, "").unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(
            matches!(Image::open(folder.path(), None), Err(ImageError::NotOwn(at)) if at == image)
        );
    }

    #[test]
    fn an_earlier_image_that_others_may_write_to_is_none_either() {
        let folder = tempfile::tempdir().unwrap();
        let (earlier, image) = (folder.path().join("earlier"), folder.path().join("image"));
        written(&image);
        fs::create_dir(&earlier).unwrap();
        std::os::unix::fs::symlink("../earlier", image.join(EARLIER)).unwrap();
        Image::open(&image, None).unwrap();
        fs::set_permissions(&earlier, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Image::open(&image, None), Err(ImageError::NotOwn(_))));
    }

    #[test]
    fn an_image_of_another_version_is_named_by_it() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let path = folder.path().join(MANIFEST);
        let text = fs::read_to_string(&path).unwrap().replace("\"version\":1", "\"version\":7");
        fs::write(&path, text).unwrap();
        assert!(matches!(Image::open(folder.path(), None), Err(ImageError::Version(7))));
    }
}
