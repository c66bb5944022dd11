//! A container without a mount namespace of its own: its mounts are the host's, below its root file
//! system, and its root is changed by chroot(2).
//!
//! `libcontainer` would do this by changing the propagation of every mount of the host. So it is
//! given a mount namespace to build the root in, which is then carried over to the host and left:
//!
//! ```text
//!   libcontainer: new mount namespace, mounts, pivot_root ─▶ copy of the tree
//!       ─▶ setns(the host's) ─▶ the copy on root.path ─▶ chroot into it
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, Spec};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use serde::{Deserialize, Serialize};

use super::sys;
use crate::spec::rules;

/// The host, to return to.
pub(super) struct HostMounts {
    namespace: OwnedFd,
    rootfs: OwnedFd,
}

impl HostMounts {
    /// Opens it, if the container is to be there; the spec then has a mount namespace.
    pub(super) fn take(spec: &mut Spec, rootfs: &Path) -> io::Result<Option<Self>> {
        if !rules::shares_mounts(spec) {
            return Ok(None);
        }
        let namespace = std::fs::File::open("/proc/self/ns/mnt")?.into();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let rootfs = rustix::fs::open(rootfs, flags, Mode::empty())?;
        add_namespace(spec).map_err(io::Error::other)?;
        Ok(Some(Self { namespace, rootfs }))
    }

    /// Carries this process's root over, and follows it. To be called in the new namespace.
    pub(super) fn return_to(&self) -> io::Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, "/", flags)?;
        sys::enter_namespace(self.namespace.as_fd(), libc::CLONE_NEWNS)?;
        let by_descriptor =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&tree, "", &self.rootfs, "", by_descriptor)?;
        rustix::process::fchdir(&tree)?;
        Ok(rustix::process::chroot(".")?)
    }
}

fn add_namespace(spec: &mut Spec) -> Result<(), oci_spec::OciSpecError> {
    let own = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Mount).build()?;
    if let Some(linux) = spec.linux_mut() {
        let mut all = linux.namespaces().clone().unwrap_or_default();
        all.push(own);
        linux.set_namespaces(Some(all));
    }
    Ok(())
}

/// A mount on a path, as the kernel numbers mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MountOn {
    path: PathBuf,
    number: u64,
}

impl MountOn {
    /// What the path is on now.
    pub(super) fn now(path: &Path) -> io::Result<Self> {
        let found = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
        Ok(Self { path: path.to_owned(), number: found.stx_mnt_id })
    }

    /// What a container's first process has as its root, seen from the path.
    pub(super) fn root_of(pid: i32, path: &Path) -> io::Result<Self> {
        let root = Self::now(Path::new(&format!("/proc/{pid}/root")))?;
        Ok(Self { path: path.to_owned(), number: root.number })
    }

    /// Takes the mount away, if it is still what the path is on.
    pub(super) fn take_away(&self) {
        if Self::now(&self.path).is_ok_and(|now| now == *self) {
            detach(&self.path);
        }
    }

    /// Takes away what came on the path after this was read.
    pub(super) fn take_newer_away(&self) {
        if Self::now(&self.path).is_ok_and(|now| now != *self) {
            detach(&self.path);
        }
    }
}

fn detach(path: &Path) {
    if let Err(error) = unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        tracing::warn!("Cannot take the mounts from {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_with_its_own_mounts_is_left_alone() {
        let mut spec = Spec::default();
        let before = spec.clone();
        assert!(HostMounts::take(&mut spec, Path::new("/")).unwrap().is_none());
        assert_eq!(spec, before);
    }

    #[test]
    fn one_without_is_built_in_a_namespace() {
        let mut spec = Spec::default();
        spec.linux_mut().as_mut().unwrap().set_namespaces(None);
        assert!(HostMounts::take(&mut spec, Path::new("/")).unwrap().is_some());
        assert!(!rules::shares_mounts(&spec));
    }

    #[test]
    fn a_path_without_a_mount_of_its_own_keeps_what_it_is_on() {
        let here = MountOn::now(Path::new("/proc")).unwrap();
        here.take_newer_away();
        assert_eq!(MountOn::now(Path::new("/proc")).unwrap(), here);
        assert_ne!(MountOn::now(Path::new("/")).unwrap().number, here.number);
    }
}
