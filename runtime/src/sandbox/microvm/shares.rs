//! What the guest sees of the host: sources opened once, looked at, and cloned into detached mount
//! trees that the monitor attaches where only its file server is.
//!
//! A source is opened before the plan is made and everything later goes by the descriptor, so that
//! what was looked at is what is shared.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use cofferdam_protocol::vm_config::ShareKind;
use nix::libc;
use oci_spec::runtime::Spec;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::owners;
use crate::host::sys::{clear_mount_attributes, set_mount_attributes};
use crate::plan::{HostFacts, ShareAccess, SharePlan, SourceKind, bind_source, source_inside};

/// Why a part of the host cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The source cannot be opened.
    #[error("Cannot open {}", .path.display())]
    Open {
        /// The source.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It cannot be cloned.
    #[error("Cannot share {} with a guest", .path.display())]
    Clone {
        /// The source.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its owners cannot be mapped.
    #[error("Cannot map the owners of {}", .path.display())]
    Owners {
        /// The source.
        path: PathBuf,
        /// Why not: a file system may not be able to.
        source: io::Error,
    },
    /// Its mount cannot be made read-only or private.
    #[error("Cannot set the mount attributes of {}", .path.display())]
    Attributes {
        /// The source.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The opened sources: the root file system, and each bind mount's.
#[derive(Debug)]
pub(super) struct Sources {
    rootfs: File,
    /// One for each bind mount, in the spec's order.
    binds: Vec<File>,
    /// What they are.
    pub(super) facts: HostFacts,
}

/// A share, ready for the monitor.
#[derive(Debug)]
pub(super) struct OpenShare {
    pub(super) tree: OwnedFd,
    pub(super) kind: ShareKind,
}

impl Sources {
    /// Opens every source. Symbolic links are followed, as they are when a mount is made.
    pub(super) fn open(spec: &Spec, bundle: &Path, rootfs: &Path) -> Result<Self, ShareError> {
        let root = open(rootfs)?;
        let mut binds = Vec::new();
        let mut facts = HostFacts::default();
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        for (index, mount) in mounts.iter().enumerate() {
            let inside = source_inside(mounts, index, bundle, rootfs).is_some();
            let (kind, flags) = match bind_source(mount, bundle).filter(|_| !inside) {
                Some(path) => {
                    let file = open(&path)?;
                    let seen = kind(&file).and_then(|kind| Ok((Some(kind), mount_flags(&file)?)));
                    binds.push(file);
                    seen.map_err(|source| ShareError::Open { path, source })?
                }
                None => (None, 0),
            };
            facts.bind_sources.push(kind);
            facts.bind_flags.push(flags);
        }
        Ok(Self { rootfs: root, binds, facts })
    }

    /// Clones the sources as the plan's shares say: the root file system first, then the bind
    /// mounts in the spec's order.
    pub(super) fn share(&self, plans: &[SharePlan]) -> Result<Vec<OpenShare>, ShareError> {
        plans.iter().zip(self.files()).map(|(plan, file)| share(plan, file)).collect()
    }
}

impl Sources {
    /// The opened sources, in the order of the plan's shares.
    pub(super) fn files(&self) -> impl Iterator<Item = &File> {
        std::iter::once(&self.rootfs).chain(&self.binds)
    }
}

fn open(path: &Path) -> Result<File, ShareError> {
    match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(descriptor) => Ok(descriptor.into()),
        Err(errno) => Err(ShareError::Open { path: path.to_owned(), source: errno.into() }),
    }
}

fn kind(file: &File) -> io::Result<SourceKind> {
    let stat = rustix::fs::fstat(file)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => SourceKind::Folder,
        FileType::CharacterDevice => SourceKind::CharDevice {
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
        },
        FileType::BlockDevice => SourceKind::BlockDevice,
        FileType::Fifo => SourceKind::Fifo,
        FileType::Socket => SourceKind::Socket,
        _ => SourceKind::File,
    })
}

/// The flags of the mount that a file is on, as `mount` numbers them.
fn mount_flags(file: &File) -> io::Result<u64> {
    // Of linux/mount.h and linux/statfs.h; the libc crate has neither.
    const MS_NOSYMFOLLOW: u64 = 0x100;
    const ST_NOSYMFOLLOW: u64 = 0x2000;
    const SAME: u64 = libc::MS_RDONLY
        | libc::MS_NOSUID
        | libc::MS_NODEV
        | libc::MS_NOEXEC
        | libc::MS_NOATIME
        | libc::MS_NODIRATIME;
    let stated = rustix::fs::fstatvfs(file)?.f_flag.bits();
    let mut flags = stated & SAME;
    if stated & ST_NOSYMFOLLOW != 0 {
        flags |= MS_NOSYMFOLLOW;
    }
    if stated & (libc::ST_NOATIME | libc::ST_RELATIME) == 0 {
        flags |= libc::MS_STRICTATIME;
    }
    Ok(flags)
}

/// Clones one source, which must be in a mount namespace of the caller's.
pub(super) fn share(plan: &SharePlan, file: &File) -> Result<OpenShare, ShareError> {
    let path = || plan.source.clone();
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if plan.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(file, "", flags)
        .map_err(|errno| ShareError::Clone { path: path(), source: errno.into() })?;
    let attributes = |recursive, attributes, propagation| {
        set_mount_attributes(tree.as_fd(), recursive, attributes, propagation)
            .map_err(|source| ShareError::Attributes { path: path(), source })
    };
    // What the host mounts later must not come in, what the guest does must not go out.
    let private = libc::MS_PRIVATE;
    match plan.access {
        ShareAccess::Writable => attributes(plan.recursive, 0, private)?,
        ShareAccess::MadeWritable => {
            attributes(plan.recursive, 0, private)?;
            clear_mount_attributes(tree.as_fd(), libc::MOUNT_ATTR_RDONLY)
                .map_err(|source| ShareError::Attributes { path: path(), source })?;
        }
        ShareAccess::ReadOnlyTree => {
            attributes(plan.recursive, libc::MOUNT_ATTR_RDONLY, private)?;
        }
        ShareAccess::ReadOnly => {
            attributes(plan.recursive, 0, private)?;
            attributes(false, libc::MOUNT_ATTR_RDONLY, 0)?;
        }
    }
    if let Some(mapped) = &plan.owners {
        owners::map(tree.as_fd(), mapped)
            .map_err(|source| ShareError::Owners { path: path(), source })?;
    }
    Ok(OpenShare { tree, kind: plan.kind })
}

#[cfg(test)]
mod tests {
    use cofferdam_protocol::plan::IdMappingPlan;

    use super::*;
    use crate::plan::OwnersPlan;

    fn spec(source: &str) -> Spec {
        let mount = format!(r#"{{"destination":"/a","source":"{source}","options":["bind"]}}"#);
        let text = format!(r#"{{"ociVersion":"1.0.2","mounts":[{mount}]}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_source_is_followed_and_told_by_its_kind() {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::create_dir(bundle.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("folder", bundle.path().join("link")).unwrap();
        let sources = Sources::open(&spec("link"), bundle.path(), bundle.path()).unwrap();
        assert_eq!(sources.facts.bind_sources, [Some(SourceKind::Folder)]);
    }

    #[test]
    fn owners_are_seen_as_they_are_mapped() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let range = |outside| vec![IdMappingPlan { inside: 0, outside, count: 10 }];
        let owners = OwnersPlan { uids: range(100_000), gids: range(200_000), recursive: false };
        let plan = SharePlan {
            source: folder.path().to_owned(),
            kind: ShareKind::Folder,
            recursive: false,
            access: ShareAccess::Writable,
            owners: Some(owners),
        };
        let shared = share(&plan, &open(folder.path()).unwrap()).unwrap();
        let stat = rustix::fs::statat(&shared.tree, "file", rustix::fs::AtFlags::empty()).unwrap();
        assert_eq!((stat.st_uid, stat.st_gid), (100_000, 200_000));
    }

    #[test]
    fn a_missing_source_is_named() {
        let bundle = tempfile::tempdir().unwrap();
        let error = Sources::open(&spec("gone"), bundle.path(), bundle.path()).unwrap_err();
        assert!(error.to_string().ends_with("/gone"), "{error}");
    }
}
