//! Where a scenario saves a container, and restores it from.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Bundle, Mode, Outcome, Runtime, finish_detaching};

/// A folder for images: one for `checkpoint` and `restore`, and others beside it.
#[derive(Debug)]
pub struct Snapshot {
    folder: TempDir,
    /// What describes the image: the name differs with what wrote it.
    manifest: &'static str,
}

impl Snapshot {
    /// An empty one, for an image of the mode of this run.
    #[must_use]
    pub fn empty() -> Self {
        let manifest = match Mode::current() {
            Mode::Namespace => "cofferdam.json",
            Mode::MicroVm => "manifest.json",
        };
        Self { folder: TempDir::with_prefix("cofferdam-image-").unwrap(), manifest }
    }

    /// The folder around the image.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The image's folder: not there before [`Self::checkpoint`].
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// `checkpoint FLAGS ID`.
    #[must_use]
    pub fn checkpoint(&self, runtime: &Runtime, flags: &[&str], id: &str) -> Outcome {
        let image = self.image();
        let mut all = vec!["checkpoint", "--image-path", image.to_str().unwrap()];
        all.extend(flags);
        all.push(id);
        runtime.verb(&all)
    }

    /// `restore FLAGS ID`, not yet run.
    #[must_use]
    pub fn arguments(&self, bundle: &Bundle, flags: &[&str], id: &str) -> Vec<String> {
        let (image, folder) = (self.image(), bundle.path());
        let mut all = vec!["restore", "--image-path", image.to_str().unwrap()];
        all.extend(["--bundle", folder.to_str().unwrap()]);
        all.extend(flags);
        all.push(id);
        all.into_iter().map(str::to_owned).collect()
    }

    /// `restore ID`: its output and its code are the container's.
    #[must_use]
    pub fn restore(&self, runtime: &Runtime, bundle: &Bundle, id: &str) -> Outcome {
        runtime.verb(&self.arguments(bundle, &[], id))
    }

    /// `restore --detach ID`: the container outlives the verb.
    #[must_use]
    pub fn restore_detached(&self, runtime: &Runtime, bundle: &Bundle, id: &str) -> Outcome {
        finish_detaching(runtime.command(&self.arguments(bundle, &["--detach"], id)))
    }

    /// Whether what was saved is whole: the manifest is written last.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.manifest_path().exists()
    }

    /// What describes the image.
    #[must_use]
    pub fn manifest(&self) -> Value {
        serde_json::from_slice(&fs::read(self.manifest_path()).unwrap()).unwrap()
    }

    /// Puts another description there.
    pub fn set_manifest(&self, manifest: &Value) {
        fs::write(self.manifest_path(), manifest.to_string()).unwrap();
    }

    /// The names of the image's files.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.image()).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn manifest_path(&self) -> PathBuf {
        self.image().join(self.manifest)
    }
}
