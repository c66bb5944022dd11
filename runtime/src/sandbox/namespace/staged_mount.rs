//! The mounts that this crate makes itself: which ones, as a plan, and making them.
//!
//! `libcontainer` makes the others. It opens the source of a bind inside the container's user
//! namespace, where a file may be out of reach; it has no mapped owners, no copy-up, no sources
//! below the container's own root; and a link to nowhere in the way of a target is its end.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, Mount};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use serde::{Deserialize, Serialize};

use super::in_root::{self, Place, Wanted};
use super::sys::{self, MountAttributes};
use crate::plan::mount_options::MountOptions;

/// One mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StagedMount {
    /// Where it is in the configuration.
    pub(super) number: usize,
    destination: PathBuf,
    kind: Kind,
    /// MOUNT_ATTR_* of the mount itself.
    set: u64,
    /// Those that an option takes away by name.
    cleared: u64,
    tree_set: u64,
    tree_cleared: u64,
    /// MS_PRIVATE and so on, with MS_REC or without, one after the other.
    propagation: Vec<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Kind {
    Bind(Bind),
    FileSystem { name: String, source: String, data: Vec<String>, copy_up: bool },
}

/// What is bound.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Bind {
    source: PathBuf,
    recursive: bool,
    pub(super) owners: Option<Owners>,
}

/// Mapped owners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owners {
    /// As `uid_map` has it; empty: the container's own mappings.
    pub(super) users: String,
    pub(super) groups: String,
    recursive: bool,
}

/// A mount that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("Cannot mount mounts[{number}], {}, at {}: {step}", what.display(), destination.display())]
pub(super) struct MountError {
    number: usize,
    what: PathBuf,
    destination: PathBuf,
    step: &'static str,
    source: io::Error,
}

/// Which of a spec's mounts are made here, by their numbers. Those that `libcontainer` makes come
/// first; so what lies over or under one that is made here, and comes after it, is made here too.
pub(super) fn numbers(mounts: &[Mount]) -> Vec<usize> {
    let mut numbers: Vec<usize> = Vec::new();
    for (number, mount) in mounts.iter().enumerate() {
        let overlaps = numbers.iter().any(|earlier| {
            let earlier = mounts[*earlier].destination();
            earlier.starts_with(mount.destination()) || mount.destination().starts_with(earlier)
        });
        if is_fixed(mount) || !(overlaps || is_ours(mount)) {
            continue;
        }
        numbers.push(number);
    }
    numbers
}

/// The devices are made in `/dev` by `libcontainer`, which mounts all v1 hierarchies as one.
fn is_fixed(mount: &Mount) -> bool {
    mount.destination() == Path::new("/dev") || mount.typ().as_deref() == Some("cgroup")
}

fn is_ours(mount: &Mount) -> bool {
    let options = MountOptions::of(mount);
    let has = |names: &[&str]| {
        let mut options = mount.options().iter().flatten();
        options.any(|option| names.iter().any(|name| option.starts_with(name)))
    };
    is_bind(mount, &options)
        || options.copy_up
        || (mount.typ().as_deref() == Some("tmpfs") && !has(&["mode="]))
        || has(&["sync", "dirsync", "iversion", "lazytime", "nosymfollow", "rnosymfollow"])
}

fn is_bind(mount: &Mount, options: &MountOptions) -> bool {
    mount.typ().as_deref() == Some("bind") || options.is_bind()
}

impl StagedMount {
    /// The plan for one mount of a spec.
    pub(super) fn of(number: usize, mount: &Mount, rootfs: &Path, bundle: &Path) -> Self {
        let options = MountOptions::of(mount);
        let source = mount.source().clone().unwrap_or_default();
        let destination = mount.destination();
        // Some callers give the path on the host.
        let destination = destination.strip_prefix(rootfs).unwrap_or(destination).to_owned();
        let kind = if is_bind(mount, &options) {
            Kind::Bind(Bind {
                source: bundle.join(source),
                recursive: options.is_recursive(),
                owners: owners(mount, &options),
            })
        } else {
            Kind::FileSystem {
                name: mount.typ().clone().unwrap_or_default(),
                source: source.to_string_lossy().into_owned(),
                data: data(&options),
                copy_up: options.copy_up,
            }
        };
        Self {
            number,
            destination,
            kind,
            set: attributes(options.attributes()),
            cleared: mount.options().iter().flatten().fold(0, |all, o| all | cleared_by(o)),
            tree_set: options.recursive_attributes,
            tree_cleared: options.recursive_cleared,
            propagation: options.propagation,
        }
    }

    /// What it binds, if it is a bind.
    pub(super) fn bind(&self) -> Option<&Bind> {
        match &self.kind {
            Kind::Bind(bind) => Some(bind),
            Kind::FileSystem { .. } => None,
        }
    }

    /// Makes it. `tree` is what it binds if that was opened by somebody with more rights.
    pub(super) fn make(
        &self,
        root: BorrowedFd<'_>,
        tree: Option<OwnedFd>,
    ) -> Result<(), MountError> {
        let failed = |step| move |source| self.failed(step, source);
        let (mount, target) = match (&self.kind, tree) {
            (Kind::Bind(bind), tree) => {
                let tree =
                    tree.map_or_else(|| bind.open(), Ok).map_err(failed("open the source"))?;
                let folder = in_root::is_folder(tree.as_fd()).map_err(failed("open the source"))?;
                let wanted = if folder { Wanted::Folder } else { Wanted::File };
                let target = in_root::open(root, &self.destination, wanted);
                (tree, target.map_err(failed("make the mount point"))?.opened)
            }
            (Kind::FileSystem { .. }, _) => {
                let target = in_root::open(root, &self.destination, Wanted::Folder)
                    .map_err(failed("make the mount point"))?;
                let made = self.file_system(&target);
                (made.map_err(failed("make the file system"))?, target.opened)
            }
        };
        self.change(mount.as_fd()).map_err(failed("set the options"))?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&mount, "", &target, "", flags)
            .map_err(|e| self.failed("move it to its place", e.into()))?;
        self.propagate(mount.as_fd()).map_err(failed("set the propagation"))
    }

    fn failed(&self, step: &'static str, source: io::Error) -> MountError {
        let what = match &self.kind {
            Kind::Bind(bind) => bind.source.clone(),
            Kind::FileSystem { name, .. } => name.into(),
        };
        let destination = Path::new("/").join(&self.destination);
        MountError { number: self.number, what, destination, step, source }
    }

    fn change(&self, mount: BorrowedFd<'_>) -> io::Result<()> {
        if self.set != 0 || self.cleared != 0 {
            self.change_own(mount)?;
        }
        if self.tree_set != 0 || self.tree_cleared != 0 {
            let (set, clear) = (self.tree_set, self.tree_cleared);
            sys::mount_setattr(mount, true, MountAttributes { set, clear, ..Default::default() })?;
        }
        Ok(())
    }

    /// As with runc a bind that says anything of its flags has those that it says, and not what its
    /// source had; but for those that the kernel does not let go of in a user namespace.
    fn change_own(&self, mount: BorrowedFd<'_>) -> io::Result<()> {
        let atime = self.atime_cleared();
        let attributes = |set: u64| MountAttributes {
            set,
            clear: (FLAGS | self.cleared) & !set | atime,
            ..Default::default()
        };
        match sys::mount_setattr(mount, false, attributes(self.set)) {
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                // This one the kernel never locks.
                let had = flags_of(mount)? & !self.cleared & !libc::MOUNT_ATTR_NOSYMFOLLOW;
                let mut kept = attributes(self.set | had);
                // What came with another option gives way to a lock.
                let said = if self.set & ATIME_FIELD != 0 { libc::MOUNT_ATTR__ATIME } else { 0 };
                kept.clear = kept.clear & !libc::MOUNT_ATTR__ATIME | said;
                sys::mount_setattr(mount, false, kept)
            }
            other => other,
        }
    }

    /// As mount(2) has it: whoever says anything of access times says all of them.
    const fn atime_cleared(&self) -> u64 {
        const ALL: u64 = libc::MOUNT_ATTR__ATIME | libc::MOUNT_ATTR_NODIRATIME;
        if (self.set | self.cleared) & ALL == 0 { 0 } else { ALL }
    }

    fn propagate(&self, mount: BorrowedFd<'_>) -> io::Result<()> {
        self.propagation.iter().try_for_each(|kind| {
            let recursive = kind & libc::MS_REC != 0;
            let propagation = kind & !libc::MS_REC;
            let attributes = MountAttributes { propagation, ..Default::default() };
            sys::mount_setattr(mount, recursive, attributes)
        })
    }

    fn file_system(&self, target: &Place) -> io::Result<OwnedFd> {
        let Kind::FileSystem { name, source, data, copy_up } = &self.kind else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let context = fsopen(name.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
        if !source.is_empty() {
            fsconfig_set_string(&context, "source", source.as_str())?;
        }
        for option in data {
            match option.split_once('=') {
                Some((key, value)) => fsconfig_set_string(&context, key, value)?,
                None => fsconfig_set_flag(&context, option.as_str())?,
            }
        }
        // As runc: what is mounted over says who may do what.
        let says_mode = data.iter().any(|option| option.starts_with("mode="));
        if name == "tmpfs" && !says_mode && !target.is_new {
            let mode = rustix::fs::fstat(&target.opened)?.st_mode & 0o7777;
            fsconfig_set_string(&context, "mode", format!("{mode:o}"))?;
        }
        fsconfig_create(&context)?;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        if *copy_up {
            copy(target.opened.as_fd(), mount.as_fd())?;
        }
        Ok(mount)
    }
}

/// The bits of the one field that says when access times are written.
const ATIME_FIELD: u64 = libc::MOUNT_ATTR_NOATIME | libc::MOUNT_ATTR_STRICTATIME;

/// What an option may take away from a mount.
const FLAGS: u64 = libc::MOUNT_ATTR_RDONLY
    | libc::MOUNT_ATTR_NOSUID
    | libc::MOUNT_ATTR_NODEV
    | libc::MOUNT_ATTR_NOEXEC
    | libc::MOUNT_ATTR_NOSYMFOLLOW;

fn cleared_by(option: &str) -> u64 {
    match option {
        "rw" => libc::MOUNT_ATTR_RDONLY,
        "suid" => libc::MOUNT_ATTR_NOSUID,
        "dev" => libc::MOUNT_ATTR_NODEV,
        "exec" => libc::MOUNT_ATTR_NOEXEC,
        "diratime" => libc::MOUNT_ATTR_NODIRATIME,
        // The kernel knows it as the absence of the others.
        "relatime" => libc::MOUNT_ATTR__ATIME,
        "symfollow" => libc::MOUNT_ATTR_NOSYMFOLLOW,
        _ => 0,
    }
}

/// The flags that a mount has.
fn flags_of(mount: BorrowedFd<'_>) -> io::Result<u64> {
    const ST_NOSYMFOLLOW: u64 = 8192;
    let flags = rustix::fs::fstatvfs(mount)?.f_flag.bits();
    Ok([
        (libc::ST_RDONLY, libc::MOUNT_ATTR_RDONLY),
        (libc::ST_NOSUID, libc::MOUNT_ATTR_NOSUID),
        (libc::ST_NODEV, libc::MOUNT_ATTR_NODEV),
        (libc::ST_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        (libc::ST_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
        (ST_NOSYMFOLLOW, libc::MOUNT_ATTR_NOSYMFOLLOW),
    ]
    .into_iter()
    .filter(|(flag, _)| flags & flag != 0)
    .fold(0, |all, (_, attribute)| all | attribute))
}

/// Flags of mount(2) as those of mount_setattr(2).
fn attributes(flags: u64) -> u64 {
    const MS_NOSYMFOLLOW: u64 = 1 << 8;
    [
        (libc::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
        (libc::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
        (libc::MS_NODEV, libc::MOUNT_ATTR_NODEV),
        (libc::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        (libc::MS_NOATIME, libc::MOUNT_ATTR_NOATIME),
        (libc::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
        (libc::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
        (MS_NOSYMFOLLOW, libc::MOUNT_ATTR_NOSYMFOLLOW),
    ]
    .into_iter()
    .filter(|(flag, _)| flags & flag != 0)
    .fold(0, |all, (_, attribute)| all | attribute)
}

/// The file system's own options, and those flags of mount(2) that are the file system's.
fn data(options: &MountOptions) -> Vec<String> {
    let flags = [
        (libc::MS_SYNCHRONOUS, "sync"),
        (libc::MS_DIRSYNC, "dirsync"),
        (libc::MS_LAZYTIME, "lazytime"),
        (libc::MS_I_VERSION, "iversion"),
    ];
    let of_flags = flags.iter().filter(|(flag, _)| options.attributes() & flag != 0);
    options
        .data
        .split(',')
        .filter(|option| !option.is_empty())
        .chain(of_flags.map(|(_, name)| *name))
        .map(str::to_owned)
        .collect()
}

fn owners(mount: &Mount, options: &MountOptions) -> Option<Owners> {
    let map = |mappings: &Option<Vec<LinuxIdMapping>>| {
        mappings.iter().flatten().fold(String::new(), |map, m| {
            map + &format!("{} {} {}\n", m.container_id(), m.host_id(), m.size())
        })
    };
    let (users, groups) = (map(mount.uid_mappings()), map(mount.gid_mappings()));
    let is_asked_for = options.idmap.is_some() || !users.is_empty() || !groups.is_empty();
    let recursive = options.idmap.as_deref() == Some("ridmap");
    is_asked_for.then_some(Owners { users, groups, recursive })
}

impl Bind {
    /// Opens it as a tree of its own, not in any place yet.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if self.recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        Ok(open_tree(rustix::fs::CWD, &self.source, flags)?)
    }
}

impl Owners {
    /// Maps the owners of a tree that is in no place yet.
    pub(super) fn apply(&self, tree: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let userns_fd = u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
        let set = libc::MOUNT_ATTR_IDMAP;
        let attributes = MountAttributes { set, userns_fd, ..Default::default() };
        sys::mount_setattr(tree, self.recursive, attributes)
    }
}

/// Copies what is in a folder, with owners, modes and links, as `tmpcopyup` asks for it.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let path = |fd: BorrowedFd<'_>| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    copy_folder(&path(from), &path(to))
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = entry.metadata()?;
        if metadata.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else if metadata.is_dir() {
            fs::create_dir(&target)?;
            copy_folder(&source, &target)?;
        } else if metadata.is_file() {
            fs::copy(&source, &target)?;
        } else {
            // Sockets and the like: what they stand for cannot be copied.
            continue;
        }
        std::os::unix::fs::lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
        if !metadata.is_symlink() {
            fs::set_permissions(&target, metadata.permissions())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(value: serde_json::Value) -> Vec<Mount> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_ordinary_container_has_none() {
        let spec: oci_spec::runtime::Spec =
            serde_json::from_str(crate::spec::template::ROOTFUL).unwrap();
        assert!(numbers(spec.mounts().as_deref().unwrap()).is_empty());
    }

    #[test]
    fn relative_access_times_take_the_others_away() {
        let of = |option: &str| {
            let all = mounts(serde_json::json!([
                {"destination": "/a", "source": "/x", "options": ["bind", option]}
            ]));
            let staged = StagedMount::of(0, &all[0], Path::new("/"), Path::new("/bundle"));
            (staged.set, staged.atime_cleared())
        };
        let all = libc::MOUNT_ATTR__ATIME | libc::MOUNT_ATTR_NODIRATIME;
        assert_eq!(of("relatime"), (0, all));
        assert_eq!(of("nodiratime"), (libc::MOUNT_ATTR_NODIRATIME, all));
        assert_eq!(of("strictatime"), (libc::MOUNT_ATTR_STRICTATIME, all));
        assert_eq!(of("atime"), (0, 0));
    }

    #[test]
    fn what_comes_over_one_of_ours_is_ours() {
        let all = mounts(serde_json::json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/a", "source": "/x", "options": ["rbind"]},
            {"destination": "/a/b", "type": "mqueue", "source": "mqueue"},
            {"destination": "/c", "type": "mqueue", "source": "mqueue"},
            {"destination": "/d", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/e", "type": "tmpfs", "source": "tmpfs"},
        ]));
        assert_eq!(numbers(&all), [2, 3, 6]);
    }

    #[test]
    fn a_bind_has_its_source_from_the_bundle_and_its_owners() {
        let all = mounts(serde_json::json!([{
            "destination": "/rootfs/a", "source": "data", "options": ["rbind", "ro", "ridmap"],
            "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 10}],
            "gidMappings": [{"containerID": 0, "hostID": 200000, "size": 10}],
        }]));
        let staged = StagedMount::of(0, &all[0], Path::new("/rootfs"), Path::new("/bundle"));
        assert_eq!(staged.destination, Path::new("a"));
        assert_eq!(staged.set, libc::MOUNT_ATTR_RDONLY);
        let bind = staged.bind().unwrap();
        assert!(bind.recursive);
        assert_eq!(bind.source, Path::new("/bundle/data"));
        let users = "0 100000 10\n".to_owned();
        let groups = "0 200000 10\n".to_owned();
        assert_eq!(bind.owners, Some(Owners { users, groups, recursive: true }));
    }
}
