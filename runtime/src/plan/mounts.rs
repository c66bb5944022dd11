//! The spec's mounts: bind mounts become shares of the host, the rest is the guest kernel's own.

use std::path::{Component, Path, PathBuf};

use cofferdam_protocol::bounds::MAX_SHARES;
use cofferdam_protocol::plan::{IdMappingPlan, MountPlan, MountSource};
use cofferdam_protocol::vm_config::ShareKind;
use nix::libc;
use oci_spec::runtime::{LinuxIdMapping, Mount};

use super::device_numbers::is_everywhere;
use super::mount_options::MountOptions;
use super::{OwnersPlan, PlanInput, ShareAccess, SharePlan, SourceKind};
use crate::spec::rules;

/// File systems that a kernel has of its own, without a device or a server.
const KERNEL_FILESYSTEMS: [&str; 10] = [
    "proc",
    "sysfs",
    "tmpfs",
    "ramfs",
    "devpts",
    "mqueue",
    "bpf",
    "debugfs",
    "tracefs",
    "securityfs",
];

/// Why a mount cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// A bind mount needs a source.
    #[error("mounts[{0}].source is missing")]
    NoSource(usize),
    /// The host facts name no source: it does not exist.
    #[error("mounts[{index}].source {} does not exist", .path.display())]
    SourceMissing {
        /// Which mount.
        index: usize,
        /// Its source.
        path: PathBuf,
    },
    /// The source is something that lives in one kernel alone.
    #[error("mounts[{index}].source {} is {what}: one of the host does not work in a guest", .path.display())]
    SourceKind {
        /// Which mount.
        index: usize,
        /// Its source.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A file system that needs something of the host.
    #[error("mounts[{index}].type {fstype:?} is not to be had in a guest")]
    Filesystem {
        /// Which mount.
        index: usize,
        /// Its type.
        fstype: String,
    },
    /// Owners of what has no files yet.
    #[error("mounts[{index}].options: {option:?} is for bind mounts")]
    Option {
        /// Which mount.
        index: usize,
        /// The option.
        option: String,
    },
    /// Owners of what is mounted in the container.
    #[error(
        "mounts[{index}].options: {option:?} is for sources of the host, and an earlier mount covers this one"
    )]
    Covered {
        /// Which mount.
        index: usize,
        /// The option.
        option: String,
    },
    /// Owners are to be mapped, and nothing says how.
    #[error("mounts[{0}].options: idmap needs uidMappings, of the mount or in linux")]
    NoMappings(usize),
    /// A path that is not text.
    #[error("mounts[{0}].destination is not UTF-8")]
    Encoding(usize),
    /// More than a guest is given.
    #[error("{0} bind mounts: at most {max} are possible", max = MAX_SHARES - 1)]
    TooMany(usize),
}

/// Where on the host a bind mount's source is; `None` for every other mount.
#[must_use]
pub fn bind_source(mount: &Mount, bundle: &Path) -> Option<PathBuf> {
    let options = MountOptions::of(mount);
    let source = mount.source().as_ref()?;
    is_bind(mount, &options).then(|| bundle.join(source))
}

/// Where in the container a bind mount's source is, if an earlier mount covers that place or lies
/// below it. The source is then what is mounted there, as it is for a runtime that looks for it when
/// its turn comes; on the host there is only the folder that is covered.
#[must_use]
pub fn source_inside(
    mounts: &[Mount],
    index: usize,
    bundle: &Path,
    rootfs: &Path,
) -> Option<PathBuf> {
    let mount = mounts.get(index)?;
    let source = absolute(&bind_source(mount, bundle)?);
    let inside = absolute(below(&source, rootfs)?);
    let recursive = MountOptions::of(mount).is_recursive();
    let matters = |earlier: &Mount| {
        let target = target(earlier, rootfs);
        inside.starts_with(&target) || recursive && target.starts_with(&inside)
    };
    mounts.get(..index)?.iter().any(matters).then_some(inside)
}

/// The place of a mount, from the container's root on. As with runc it may also be written from the
/// host's root on.
fn target(mount: &Mount, rootfs: &Path) -> PathBuf {
    let written = absolute(mount.destination());
    below(&written, rootfs).map_or_else(|| written.clone(), absolute)
}

/// What a path is below the root file system, which says nothing where that is the host's own.
fn below<'p>(path: &'p Path, rootfs: &Path) -> Option<&'p Path> {
    path.strip_prefix(rootfs).ok().filter(|_| rootfs != Path::new("/"))
}

/// Whether a mount is of a type that a guest has.
pub(super) fn in_every_guest(mount: &Mount) -> bool {
    let options = MountOptions::of(mount);
    is_bind(mount, &options)
        || mount.typ().as_deref().is_some_and(|fstype| {
            matches!(fstype, "cgroup" | "cgroup2") || KERNEL_FILESYSTEMS.contains(&fstype)
        })
}

/// Whether a spec binds something over `/dev` itself: then its nodes are the binder's.
pub(super) fn has_bound_dev(mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| {
        let options = MountOptions::of(mount);
        is_bind(mount, &options) && absolute(mount.destination()) == Path::new("/dev")
    })
}

/// The mounts, in order, and the shares that they need; the first share has index 1 (the root
/// file system is 0).
pub(super) fn plan(input: &PlanInput<'_>) -> Result<(Vec<MountPlan>, Vec<SharePlan>), MountError> {
    let mut plans = Vec::new();
    let mut shares: Vec<SharePlan> = Vec::new();
    let mounts = input.spec.mounts().as_deref().unwrap_or_default();
    for (index, mount) in mounts.iter().enumerate() {
        let options = MountOptions::of(mount);
        let source = if let Some(path) = source_inside(mounts, index, input.bundle, input.rootfs) {
            refuse_owners(index, mount, &options)?;
            MountSource::Inside { path: text(index, &path)?, recursive: options.is_recursive() }
        } else if is_bind(mount, &options) {
            let share = share(index, mount, &options, input)?;
            let folder = share.kind == ShareKind::Folder;
            shares.push(share);
            let count = u32::try_from(shares.len()).ok().filter(|n| (*n as usize) < MAX_SHARES);
            let share_index = count.ok_or(MountError::TooMany(shares.len()))?;
            MountSource::Share { index: share_index, recursive: options.is_recursive(), folder }
        } else {
            if let Some(option) = &options.idmap {
                return Err(MountError::Option { index, option: option.clone() });
            }
            filesystem(index, mount, &options)?
        };
        plans.push(MountPlan {
            target: text(index, &target(mount, input.rootfs))?,
            source,
            flags: options.attributes() | inherited(index, &options, input),
            recursive_attributes: options.recursive_attributes,
            recursive_cleared: options.recursive_cleared,
            propagation: options.propagation,
        });
    }
    Ok((plans, shares))
}

/// Owners are mapped on the host, which has no such source.
fn refuse_owners(index: usize, mount: &Mount, options: &MountOptions) -> Result<(), MountError> {
    let mapped = mount.uid_mappings().as_ref().is_some_and(|list| !list.is_empty());
    let option = options.idmap.clone().or_else(|| mapped.then(|| "uidMappings".to_owned()));
    option.map_or(Ok(()), |option| Err(MountError::Covered { index, option }))
}

/// What the source's own mount forbids, unless the options allow it by name, and how it keeps access
/// times, unless they name another way.
fn inherited(index: usize, options: &MountOptions, input: &PlanInput<'_>) -> u64 {
    const ACCESS_TIMES: u64 =
        libc::MS_NOATIME | libc::MS_NODIRATIME | libc::MS_RELATIME | libc::MS_STRICTATIME;
    let flags = input.facts.bind_flags.get(index).copied().unwrap_or_default();
    let mut allowed = options.cleared & !ACCESS_TIMES;
    if !is_made_writable(index, options, input) {
        allowed &= !libc::MS_RDONLY;
    }
    // In a user namespace the guest's kernel lets nobody keep them otherwise.
    if options.flags & ACCESS_TIMES != 0 || rules::has_user_namespace(input.spec) {
        allowed |= ACCESS_TIMES;
    }
    flags & !allowed
}

/// `rw` on what is read-only on the host is taken at its word, as by runc, and as there not for a
/// container with users of its own: they may not undo what the host has done.
fn is_made_writable(index: usize, options: &MountOptions, input: &PlanInput<'_>) -> bool {
    let flags = input.facts.bind_flags.get(index).copied().unwrap_or_default();
    flags & options.cleared & libc::MS_RDONLY != 0 && !rules::has_user_namespace(input.spec)
}

fn is_bind(mount: &Mount, options: &MountOptions) -> bool {
    options.is_bind() || mount.typ().as_deref() == Some("bind")
}

fn share(
    index: usize,
    mount: &Mount,
    options: &MountOptions,
    input: &PlanInput<'_>,
) -> Result<SharePlan, MountError> {
    let path = bind_source(mount, input.bundle).ok_or(MountError::NoSource(index))?;
    let kind = input.facts.bind_sources.get(index).copied().flatten();
    let Some(kind) = kind else { return Err(MountError::SourceMissing { index, path }) };
    let refused = |path, what| Err(MountError::SourceKind { index, path, what });
    let kind = match kind {
        SourceKind::Folder => ShareKind::Folder,
        SourceKind::File => ShareKind::File,
        // A device node is a number: opened in the guest it is the guest's device.
        SourceKind::CharDevice { major, minor } if is_everywhere(major, minor) => ShareKind::File,
        SourceKind::CharDevice { .. } => return refused(path, "a device that no guest has"),
        SourceKind::BlockDevice => return refused(path, "a block device"),
        SourceKind::Fifo => return refused(path, "a named pipe"),
        SourceKind::Socket => return refused(path, "a socket"),
    };
    let access = if options.recursive_attributes & libc::MOUNT_ATTR_RDONLY != 0 {
        ShareAccess::ReadOnlyTree
    } else if options.flags & libc::MS_RDONLY != 0 {
        ShareAccess::ReadOnly
    } else if is_made_writable(index, options, input) {
        ShareAccess::MadeWritable
    } else {
        ShareAccess::Writable
    };
    let owners = owners(index, mount, options, input)?;
    Ok(SharePlan { source: path, kind, recursive: options.is_recursive(), access, owners })
}

/// A range of numbers as the plans have it.
#[must_use]
pub fn id_mapping(mapping: &LinuxIdMapping) -> IdMappingPlan {
    IdMappingPlan {
        inside: mapping.container_id(),
        outside: mapping.host_id(),
        count: mapping.size(),
    }
}

/// The mount's own mappings, or with the option alone those of the container's user namespace.
fn owners(
    index: usize,
    mount: &Mount,
    options: &MountOptions,
    input: &PlanInput<'_>,
) -> Result<Option<OwnersPlan>, MountError> {
    let given = |list: &Option<Vec<LinuxIdMapping>>| list.clone().unwrap_or_default();
    let (mut uids, mut gids) = (given(mount.uid_mappings()), given(mount.gid_mappings()));
    if uids.is_empty() {
        if options.idmap.is_none() {
            return Ok(None);
        }
        let linux = input.spec.linux().as_ref();
        uids = linux.map(|linux| given(linux.uid_mappings())).unwrap_or_default();
        gids = linux.map(|linux| given(linux.gid_mappings())).unwrap_or_default();
    }
    if uids.is_empty() || gids.is_empty() {
        return Err(MountError::NoMappings(index));
    }
    let recursive = options.idmap.as_deref() == Some("ridmap");
    let plan = |list: Vec<LinuxIdMapping>| list.iter().map(id_mapping).collect();
    Ok(Some(OwnersPlan { uids: plan(uids), gids: plan(gids), recursive }))
}

fn filesystem(
    index: usize,
    mount: &Mount,
    options: &MountOptions,
) -> Result<MountSource, MountError> {
    let fstype = mount.typ().clone().unwrap_or_default();
    if fstype == "cgroup" || fstype == "cgroup2" {
        return Ok(MountSource::Cgroup);
    }
    if !KERNEL_FILESYSTEMS.contains(&fstype.as_str()) {
        return Err(MountError::Filesystem { index, fstype });
    }
    let source = mount.source().as_ref().map(|source| text(index, source)).transpose()?;
    Ok(MountSource::Filesystem {
        source: source.unwrap_or_else(|| fstype.clone()),
        data: options.data.clone(),
        copy_up: options.copy_up && fstype == "tmpfs",
        fstype,
    })
}

/// The path from the container's root: absolute, without `.`, `..` and doubled slashes. Symbolic
/// links are the agent's to resolve.
pub(super) fn absolute(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    clean
}

fn text(index: usize, path: &Path) -> Result<String, MountError> {
    path.to_str().map(str::to_owned).ok_or(MountError::Encoding(index))
}

#[cfg(test)]
mod tests {
    use cofferdam_protocol::plan::StdioPlan;
    use proptest::prelude::*;

    use super::*;
    use crate::plan::{HostFacts, VmDefaults};

    proptest! {
        #[test]
        fn a_clean_path_stays_below_the_root(path in "[a./]{0,24}") {
            let clean = absolute(Path::new(&path));
            prop_assert!(clean.is_absolute());
            prop_assert!(clean.components().all(|part| !matches!(part, Component::ParentDir)));
        }
    }

    fn mount(text: &str) -> Mount {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_relative_source_starts_at_the_bundle() {
        let bound = mount(r#"{"destination":"/a","source":"data","options":["bind"]}"#);
        assert_eq!(bind_source(&bound, Path::new("/b")), Some("/b/data".into()));
        let proc = mount(r#"{"destination":"/proc","source":"proc","type":"proc"}"#);
        assert_eq!(bind_source(&proc, Path::new("/b")), None);
    }

    #[test]
    fn a_device_is_shared_where_every_kernel_has_it() {
        let spec =
            r#"{"ociVersion":"1.0.2","mounts":[{"destination":"/a","source":"/s","type":"bind"}]}"#;
        let spec = serde_json::from_str(spec).unwrap();
        let planned = |kind| {
            let facts = HostFacts { bind_sources: vec![Some(kind)], ..HostFacts::default() };
            let input = PlanInput {
                id: &"a".parse().unwrap(),
                bundle: Path::new("/b"),
                rootfs: Path::new("/b/rootfs"),
                spec: &spec,
                stdio: StdioPlan::Pipes { stdin: false, stdout: false, stderr: false },
                defaults: VmDefaults {
                    vcpus: 1,
                    memory_mib: 256,
                    overhead_mib: 48,
                    max_vcpus: 1,
                    max_memory_mib: 0,
                    announced_vcpus_max: 1,
                    announced_memory_max_mib: 0,
                },
                facts: &facts,
            };
            plan(&input).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(planned(SourceKind::CharDevice { major: 1, minor: 3 }), Ok(()));
        let refused = "mounts[0].source /s is a device that no guest has: one of the host does not \
                       work in a guest";
        assert_eq!(
            planned(SourceKind::CharDevice { major: 226, minor: 0 }),
            Err(refused.to_owned())
        );
        for kind in [SourceKind::Socket, SourceKind::Fifo, SourceKind::BlockDevice] {
            assert!(planned(kind).unwrap_err().contains("mounts[0].source /s is a"));
        }
    }

    /// Of the mount that the source is on.
    const SOURCE: u64 = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_RDONLY | libc::MS_NOATIME;

    /// What becomes of a bind of such a source: its flags in the guest, its access on the host.
    fn bound(options: &str, namespaces: &str) -> (u64, ShareAccess) {
        let spec = format!(
            r#"{{"ociVersion":"1.0.2","linux":{{"namespaces":[{namespaces}]}},"mounts":[
                {{"destination":"/a","source":"/s","type":"bind","options":[{options}]}}]}}"#
        );
        let facts =
            HostFacts { bind_sources: vec![Some(SourceKind::Folder)], bind_flags: vec![SOURCE] };
        let input = PlanInput {
            id: &"a".parse().unwrap(),
            bundle: Path::new("/b"),
            rootfs: Path::new("/b/rootfs"),
            spec: &serde_json::from_str(&spec).unwrap(),
            stdio: StdioPlan::Pipes { stdin: false, stdout: false, stderr: false },
            defaults: VmDefaults {
                vcpus: 1,
                memory_mib: 256,
                overhead_mib: 48,
                max_vcpus: 1,
                max_memory_mib: 0,
                announced_vcpus_max: 1,
                announced_memory_max_mib: 0,
            },
            facts: &facts,
        };
        let (mounts, shares) = plan(&input).unwrap();
        (mounts[0].flags, shares[0].access)
    }

    #[test]
    fn what_the_sources_mount_forbids_stays_forbidden() {
        assert_eq!(bound("", "").0, SOURCE);
        let allowed = bound(r#""exec","nodev""#, "").0;
        assert_eq!(allowed, SOURCE & !libc::MS_NOEXEC | libc::MS_NODEV);
    }

    #[test]
    fn access_times_are_kept_as_the_source_keeps_them_unless_another_way_is_named() {
        assert_eq!(bound(r#""atime","diratime""#, "").0, SOURCE);
        let other = bound(r#""strictatime""#, "").0;
        assert_eq!(other, SOURCE & !libc::MS_NOATIME | libc::MS_STRICTATIME);
    }

    #[test]
    fn what_is_read_only_is_made_writable_by_name_alone_and_for_no_users_of_its_own() {
        assert_eq!(bound(r#""nodev""#, "").1, ShareAccess::Writable);
        let writable = (SOURCE & !libc::MS_RDONLY, ShareAccess::MadeWritable);
        assert_eq!(bound(r#""rw""#, ""), writable);
        let user = r#"{"type":"user"}"#;
        let kept = SOURCE & !libc::MS_NOATIME;
        assert_eq!(bound(r#""rw""#, user), (kept, ShareAccess::Writable));
    }

    #[test]
    fn a_source_that_an_earlier_mount_covers_is_the_containers() {
        let mounts = [
            mount(r#"{"destination":"/m/x","type":"tmpfs"}"#),
            mount(r#"{"destination":"/a","source":"rootfs/m/x/y","options":["bind"]}"#),
            mount(r#"{"destination":"/b","source":"/b/rootfs/m","options":["bind"]}"#),
            mount(r#"{"destination":"/c","source":"/b/rootfs/m","options":["rbind"]}"#),
            mount(r#"{"destination":"/d","source":"/m/x","options":["bind"]}"#),
        ];
        let inside = |rootfs: &str| {
            [1, 2, 3, 4]
                .map(|index| source_inside(&mounts, index, Path::new("/b"), Path::new(rootfs)))
        };
        // One below which something is mounted shows that only when it is bound as a tree.
        let expected = [Some("/m/x/y".into()), None, Some("/m".into()), None];
        assert_eq!(inside("/b/rootfs"), expected);
        assert_eq!(inside("/"), [const { None::<PathBuf> }; 4]);
    }

    #[test]
    fn a_place_may_be_written_from_the_hosts_root_on() {
        let at = |destination: &str| {
            let mount = mount(&format!(r#"{{"destination":"{destination}","type":"tmpfs"}}"#));
            target(&mount, Path::new("/b/rootfs"))
        };
        assert_eq!(at("/b/rootfs/a"), Path::new("/a"));
        assert_eq!(at("/b/rootfsa"), Path::new("/b/rootfsa"));
    }

    #[test]
    fn a_bind_over_dev_is_seen_however_it_is_spelt() {
        let bound = mount(r#"{"destination":"/x/../dev/","source":"/dev","type":"bind"}"#);
        assert!(has_bound_dev(&[bound]));
    }
}
