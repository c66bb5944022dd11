//! What a microVM is made from: the guest kernel, the initramfs with the agent, and the monitor.
//! Found, opened, and their sizes compared with the manifest, so that a truncated file is an error
//! here rather than a guest that does not boot.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::MicroVmConfig;

/// Where the guest's files are, seen from the folder of the program.
const GUEST_FOLDERS: [&str; 2] = ["../guest", "../lib/cofferdam/guest"];
const MANIFEST: &str = "manifest.json";
const MONITOR: &str = "cofferdam-vmm";

/// Open and of the size that their build wrote down.
#[derive(Debug)]
pub struct Artifacts {
    /// The monitor's path.
    pub monitor: PathBuf,
    /// The guest kernel: an uncompressed ELF `vmlinux`, read-only.
    pub kernel: File,
    /// The guest's first file system: a cpio archive with the agent as `/init`, read-only.
    pub initramfs: File,
    /// The guest kernel's version, as the manifest says it.
    pub kernel_version: String,
    /// The guest kernel's SHA-256, as the manifest says it.
    pub kernel_sha256: String,
    /// The initramfs's SHA-256, as the manifest says it.
    pub initramfs_sha256: String,
}

/// `manifest.json` beside the guest's files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    /// The guest kernel.
    pub kernel: ManifestKernel,
    /// The initramfs.
    pub initramfs: ManifestInitramfs,
}

/// The guest kernel as built.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ManifestKernel {
    /// File name in the manifest's folder.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// `6.12.57` or the like.
    pub version: String,
}

/// The initramfs as built.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ManifestInitramfs {
    /// File name in the manifest's folder.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// The protocol that its agent speaks.
    pub protocol_version: u32,
}

/// Why a microVM cannot be made from what is there.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The program's own path is unknown.
    #[error("Cannot tell where this program is")]
    OwnPath(#[source] io::Error),
    /// No folder with a manifest.
    #[error("No guest files (manifest.json) in {}", list(.searched))]
    NoGuest {
        /// Where they could have been.
        searched: Vec<PathBuf>,
    },
    /// A file cannot be opened or read.
    #[error("Cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is not one.
    #[error("{path} is not a manifest of guest files")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A file is not the one that the manifest means.
    #[error(
        "{path} has {found} bytes, the manifest says {expected}: truncated, or of another build"
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// What it should be.
        expected: u64,
    },
    /// The agent in the initramfs speaks another protocol.
    #[error("{path} has an agent of protocol {found}, this runtime speaks {expected}")]
    Protocol {
        /// The file.
        path: PathBuf,
        /// Its protocol.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// There is no monitor.
    #[error("No monitor at {path}")]
    NoMonitor {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl Artifacts {
    /// Finds, opens and checks everything.
    ///
    /// # Errors
    /// What is missing or wrong, by its path.
    pub fn open(config: &MicroVmConfig) -> Result<Self, ArtifactError> {
        let (folder, manifest) = find_manifest(config)?;
        let initramfs = folder.join(&manifest.initramfs.file);
        let expected = cofferdam_protocol::bounds::PROTOCOL_VERSION;
        let found = manifest.initramfs.protocol_version;
        if found != expected {
            return Err(ArtifactError::Protocol { path: initramfs, found, expected });
        }
        Ok(Self {
            monitor: find_monitor(config)?,
            kernel: open_sized(folder.join(&manifest.kernel.file), manifest.kernel.bytes)?,
            initramfs: open_sized(initramfs, manifest.initramfs.bytes)?,
            kernel_version: manifest.kernel.version,
            kernel_sha256: manifest.kernel.sha256,
            initramfs_sha256: manifest.initramfs.sha256,
        })
    }
}

/// The folder with the guest's files, and its manifest.
///
/// # Errors
/// When there is none, or it does not parse.
pub fn find_manifest(config: &MicroVmConfig) -> Result<(PathBuf, Manifest), ArtifactError> {
    let searched = match &config.guest {
        Some(folder) => vec![folder.clone()],
        None => {
            let own = own_folder()?;
            GUEST_FOLDERS.iter().map(|folder| own.join(folder)).collect()
        }
    };
    for folder in &searched {
        let path = folder.join(MANIFEST);
        match fs::read(&path) {
            Ok(bytes) => {
                let manifest = serde_json::from_slice(&bytes)
                    .map_err(|source| ArtifactError::Manifest { path, source })?;
                return Ok((folder.clone(), manifest));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ArtifactError::Read { path, source }),
        }
    }
    Err(ArtifactError::NoGuest { searched })
}

/// The monitor's path: a file that is there.
///
/// # Errors
/// When there is none.
pub fn find_monitor(config: &MicroVmConfig) -> Result<PathBuf, ArtifactError> {
    let path = match &config.monitor {
        Some(path) => path.clone(),
        None => own_folder()?.join(MONITOR),
    };
    match fs::metadata(&path) {
        Ok(_) => Ok(path),
        Err(source) => Err(ArtifactError::NoMonitor { path, source }),
    }
}

fn open_sized(path: PathBuf, expected: u64) -> Result<File, ArtifactError> {
    let open = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
    match open {
        Ok((found, file)) if found == expected => Ok(file),
        Ok((found, _)) => Err(ArtifactError::Size { path, found, expected }),
        Err(source) => Err(ArtifactError::Read { path, source }),
    }
}

fn own_folder() -> Result<PathBuf, ArtifactError> {
    let own = std::env::current_exe().map_err(ArtifactError::OwnPath)?;
    Ok(own.parent().unwrap_or(Path::new("/")).to_path_buf())
}
