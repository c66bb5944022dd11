//! The cache of built kernels.
//!
//! ```text
//! kernel/lock           held while a kernel is looked for or built
//! kernel/sources.json   checksums of tarballs, by stamp: hashing 150 MB at each call would take long
//! kernel/work/          source and objects of a build under way; kept when interrupted, to go on
//! kernel/KEY/           vmlinux, System.map, config, manifest.json: complete, moved here by one rename
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::GuestKernel;
use super::compile::Built;
use super::recipe::Recipe;
use crate::digest;

/// The cache's folder, locked.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    /// Locked until it is closed.
    _lock: File,
}

/// What is written beside each image.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// What `uname -r` says.
    version: String,
    /// Of `vmlinux`.
    bytes: u64,
    /// Of `vmlinux`, in hexadecimal.
    sha256: String,
    /// Checksum of the source.
    source: String,
    /// Why the source is believed to be genuine.
    source_proof: String,
    /// The compiler's name and version.
    compiler: String,
    /// How many objects the build made: the next build's progress bar starts from it.
    objects: u64,
}

impl Cache {
    /// Make the folder if need be, and wait until no other build runs in it.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| {
            format!(
                "Cannot make the cache {} (COFFERDAM_CACHE names another place)",
                folder.display()
            )
        })?;
        let path = folder.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("Cannot open {}", path.display()))?;
        if lock.try_lock().is_err() {
            eprintln!("Waiting for another build in {}", folder.display());
            lock.lock().with_context(|| format!("Cannot lock {}", path.display()))?;
        }
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    /// The image for `key`, if it is there and undamaged.
    pub(super) fn find(&self, key: &str) -> Result<Option<GuestKernel>> {
        let entry = self.folder.join(key);
        let vmlinux = entry.join("vmlinux");
        let manifest: Manifest = match fs::read(entry.join("manifest.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("Damaged manifest in {}", entry.display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("Cannot read {}", entry.display()));
            }
        };
        if digest::file(&vmlinux).ok().as_ref() != Some(&manifest.sha256) {
            eprintln!("{} is damaged: building it again", vmlinux.display());
            return Ok(None);
        }
        let Manifest { version, sha256, bytes, .. } = manifest;
        Ok(Some(GuestKernel { vmlinux, version, sha256, bytes }))
    }

    /// The folder for a build under way.
    pub(super) fn work(&self) -> PathBuf {
        self.folder.join("work")
    }

    /// Remove what the build needed.
    pub(super) fn discard_work(&self) -> Result<()> {
        remove_folder(&self.work())
    }

    /// Move what was built to its place for `key`.
    pub(super) fn publish(&self, key: &str, recipe: &Recipe, built: &Built) -> Result<GuestKernel> {
        let staging = tempfile::Builder::new()
            .prefix("publishing-")
            .tempdir_in(&self.folder)
            .with_context(|| format!("Cannot write to {}", self.folder.display()))?;
        for (from, name) in [
            (&built.vmlinux, "vmlinux"),
            (&built.system_map, "System.map"),
            (&built.config, "config"),
        ] {
            fs::copy(from, staging.path().join(name))
                .with_context(|| format!("Cannot copy {}", from.display()))?;
        }
        let image = staging.path().join("vmlinux");
        let reading = || format!("Cannot read {}", image.display());
        let manifest = Manifest {
            version: built.version.clone(),
            bytes: fs::metadata(&image).with_context(reading)?.len(),
            sha256: digest::file(&image).with_context(reading)?,
            source: recipe.source.identity.clone(),
            source_proof: recipe.source.proof.clone(),
            compiler: recipe.compiler.clone(),
            objects: built.objects,
        };
        fs::write(staging.path().join("manifest.json"), serde_json::to_vec_pretty(&manifest)?)?;
        let entry = self.folder.join(key);
        // There is one only if it was found to be damaged.
        remove_folder(&entry)?;
        make_readable(staging.path())?;
        fs::rename(staging.keep(), &entry)
            .with_context(|| format!("Cannot make {}", entry.display()))?;
        let Manifest { version, sha256, bytes, .. } = manifest;
        Ok(GuestKernel { vmlinux: entry.join("vmlinux"), version, sha256, bytes })
    }

    /// Checksum and proof of the tarball with this stamp, from an earlier call.
    pub(super) fn remembered_source(&self, stamp: &str) -> Option<(String, String)> {
        self.remembered_sources().remove(stamp)
    }

    /// Remember them for the next call.
    pub(super) fn remember_source(&self, stamp: &str, sha256: &str, proof: &str) -> Result<()> {
        let mut known = self.remembered_sources();
        known.insert(stamp.to_owned(), (sha256.to_owned(), proof.to_owned()));
        let path = self.sources_file();
        fs::write(&path, serde_json::to_vec_pretty(&known)?)
            .with_context(|| format!("Cannot write {}", path.display()))
    }

    /// A file that is missing or damaged costs one checksum, so that it is no error.
    fn remembered_sources(&self) -> BTreeMap<String, (String, String)> {
        fs::read(self.sources_file())
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    fn sources_file(&self) -> PathBuf {
        self.folder.join("sources.json")
    }
}

/// A temporary folder is for its maker alone; the cache is for every user of the machine.
fn make_readable(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("Cannot change the mode of {}", folder.display()))
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("Cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::options::Options;
    use crate::kernel::source::{Origin, Source};

    fn recipe() -> Recipe {
        Recipe {
            options: Options::default(),
            source: Source {
                identity: "tree x".into(),
                origin: Origin::Tree("/src".into()),
                proof: "test".into(),
            },
            compiler: "gcc".into(),
        }
    }

    fn built(folder: &Path) -> Built {
        for name in ["vmlinux", "System.map", ".config"] {
            fs::write(folder.join(name), name).unwrap();
        }
        Built {
            vmlinux: folder.join("vmlinux"),
            system_map: folder.join("System.map"),
            config: folder.join(".config"),
            version: "6.12.0-test".into(),
            objects: 7,
        }
    }

    #[test]
    fn what_was_published_is_found() {
        let (folder, objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = Cache::open(folder.path()).unwrap();
        assert!(cache.find("key").unwrap().is_none());
        let published = cache.publish("key", &recipe(), &built(objects.path())).unwrap();
        let found = cache.find("key").unwrap().unwrap();
        assert_eq!((found.version.as_str(), found.bytes), ("6.12.0-test", 7));
        assert_eq!(found.sha256, published.sha256);
        assert_eq!(fs::read(found.vmlinux).unwrap(), b"vmlinux");
    }

    #[test]
    fn a_damaged_image_counts_as_missing_and_is_replaced() {
        let (folder, objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = Cache::open(folder.path()).unwrap();
        let published = cache.publish("key", &recipe(), &built(objects.path())).unwrap();
        fs::write(&published.vmlinux, "vml").unwrap();
        assert!(cache.find("key").unwrap().is_none());
        cache.publish("key", &recipe(), &built(objects.path())).unwrap();
        assert!(cache.find("key").unwrap().is_some());
    }

    #[test]
    fn nothing_is_left_beside_the_entry() {
        let (folder, objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = Cache::open(folder.path()).unwrap();
        cache.publish("key", &recipe(), &built(objects.path())).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["key", "lock"]);
    }

    #[test]
    fn a_source_is_remembered_by_its_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        cache.remember_source("stamp", "aa", "why").unwrap();
        assert_eq!(cache.remembered_source("stamp"), Some(("aa".into(), "why".into())));
        assert_eq!(cache.remembered_source("other"), None);
    }
}
