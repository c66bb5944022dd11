//! The mounts of a container as `/proc` shows them, and what of them comes from outside of it.
//!
//! CRIU saves what was mounted for the container alone (`proc`, `tmpfs`, ...). What comes from the
//! host it has to be told of, by the place; where it comes from is looked up again in the
//! configuration when the container is restored.
//!
//! Hostile: the container. It may have moved mounts about and put links in the way of places that
//! the configuration names. A mount that does not have the restrictions that the configuration
//! gives to what is at its place is refused, so that nothing comes back with fewer.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use serde::{Deserialize, Serialize};

use super::cgroup;
use super::proc_mounts;
use crate::plan::mount_options::MountOptions;

/// More mounts than any container has: the kernel's own limit.
const MAX_MOUNTS: usize = 100_000;

/// What makes a mount less than a plain one.
const RESTRICTIONS: [&str; 5] = ["ro", "nosuid", "nodev", "noexec", "nosymfollow"];

/// A mount of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// As descriptors name it.
    pub(super) id: u32,
    device: (u32, u32),
    /// What of its file system it shows.
    root: PathBuf,
    /// Where, as the container sees it.
    pub(super) place: PathBuf,
    restrictions: BTreeSet<String>,
    kind: String,
    options: String,
}

/// What of a mount must be the same after it was restored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct MountFacts {
    pub(super) place: PathBuf,
    kind: String,
    restrictions: BTreeSet<String>,
    /// Of the whole file system.
    is_read_only: bool,
}

/// A mount that comes from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct External {
    pub(super) place: PathBuf,
    pub(super) origin: Origin,
}

/// Where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Origin {
    /// One of the configuration's binds, by its destination.
    Bind(PathBuf),
    /// The container's own control group of the hierarchy that is mounted there on the host.
    OwnGroup { hierarchy: PathBuf, below: PathBuf },
    /// A control group of the host.
    Group(PathBuf),
    /// A device of the host.
    Device(PathBuf),
}

/// A mount that CRIU cannot be told of.
#[derive(Debug, thiserror::Error)]
pub enum MountTableError {
    /// It cannot be seen.
    #[error("Cannot read the container's mounts")]
    Read(#[source] io::Error),
    /// It is not in the configuration.
    #[error(
        "What is mounted at {0} comes from the host, and no mount of the container's configuration has this destination: criu cannot be told where it comes from"
    )]
    Unknown(PathBuf),
    /// Mapped owners.
    #[error("The mount at {0} has mapped owners, which criu does not restore")]
    Idmapped(PathBuf),
    /// Somebody took a restriction away, or moved it.
    #[error(
        "The mount at {place} is not {restriction}, as the configuration has it: it was moved or changed"
    )]
    Changed {
        /// Where.
        place: PathBuf,
        /// `ro`, ...
        restriction: String,
    },
}

/// What a process sees mounted.
pub(super) fn of_process(pid: i32) -> io::Result<Vec<Mounted>> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    Ok(text.lines().take(MAX_MOUNTS).filter_map(parse).collect())
}

/// What must be the same again, in an order that does not depend on who mounted first.
pub(super) fn facts(mounts: &[Mounted]) -> Vec<MountFacts> {
    let mut facts: Vec<_> = mounts
        .iter()
        .map(|mount| MountFacts {
            place: mount.place.clone(),
            kind: mount.kind.clone(),
            restrictions: mount.restrictions.clone(),
            is_read_only: mount.options.split(',').any(|option| option == "ro"),
        })
        .collect();
    facts.sort();
    facts
}

/// Where two lists of mounts differ first.
pub(super) fn difference(saved: &[MountFacts], found: &[MountFacts]) -> Option<PathBuf> {
    let other = |one: &[MountFacts], other: &[MountFacts]| {
        one.iter().find(|mount| !other.contains(mount)).map(|mount| mount.place.clone())
    };
    other(saved, found)
        .or_else(|| other(found, saved))
        .or_else(|| (saved.len() != found.len()).then(|| saved.last().map(|m| m.place.clone()))?)
}

/// What of a container's mounts comes from outside.
pub(super) fn external(
    mounts: &[Mounted],
    spec: &Spec,
    rootfs: &Path,
    groups: &[PathBuf],
) -> Result<Vec<External>, MountTableError> {
    let host = of_process(std::process::id().cast_signed()).map_err(MountTableError::Read)?;
    let configured = configured(spec, rootfs);
    let outside = Outside { host: &host, configured: &configured, groups, spec };
    let below_root = mounts.iter().filter(|mount| mount.place != Path::new("/"));
    below_root.filter_map(|mount| outside.find(mount).transpose()).collect()
}

struct Outside<'a> {
    host: &'a [Mounted],
    configured: &'a [Configured<'a>],
    groups: &'a [PathBuf],
    spec: &'a Spec,
}

/// A mount of the configuration, and where its destination leads now.
struct Configured<'a> {
    place: PathBuf,
    mount: &'a Mount,
}

fn configured<'a>(spec: &'a Spec, rootfs: &Path) -> Vec<Configured<'a>> {
    let of = |mount: &'a Mount| Configured {
        place: proc_mounts::resolve(rootfs, mount.destination()),
        mount,
    };
    spec.mounts().iter().flatten().map(of).collect()
}

/// Whether a mount of the configuration shows a part of the host.
pub(super) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind") || MountOptions::of(mount).is_bind()
}

impl Outside<'_> {
    /// Where a mount comes from; none: it is the container's own.
    fn find(&self, mounted: &Mounted) -> Result<Option<External>, MountTableError> {
        let place = mounted.place.clone();
        if let Some(origin) = self.group(mounted) {
            return Ok(Some(External { place, origin }));
        }
        let there = self.configured.iter().rfind(|known| known.place == place);
        if let Some(bind) = there.filter(|known| is_bind(known.mount)) {
            check(bind.mount, mounted)?;
            let origin = Origin::Bind(bind.mount.destination().clone());
            return Ok(Some(External { place, origin }));
        }
        if !self.is_of_host(mounted) {
            return Ok(None);
        }
        match self.device(mounted) {
            Some(device) => Ok(Some(External { place, origin: Origin::Device(device) })),
            None => Err(MountTableError::Unknown(place)),
        }
    }

    fn group(&self, mounted: &Mounted) -> Option<Origin> {
        if !["cgroup", "cgroup2"].contains(&mounted.kind.as_str()) {
            return None;
        }
        let (hierarchy, folder) = cgroup::shown_by(&mounted.kind, &mounted.options, &mounted.root)?;
        let own = self.groups.iter().find_map(|group| folder.strip_prefix(group).ok());
        Some(match own {
            Some(below) => Origin::OwnGroup { hierarchy, below: below.to_owned() },
            None => Origin::Group(folder),
        })
    }

    fn is_of_host(&self, mounted: &Mounted) -> bool {
        // These have one instance for each namespace of another kind.
        let of_namespaces = ["proc", "mqueue", "sysfs"];
        !of_namespaces.contains(&mounted.kind.as_str())
            && self.host.iter().any(|mount| mount.device == mounted.device)
    }

    /// A device of the host that is at a device's place, or over something that is hidden.
    fn device(&self, mounted: &Mounted) -> Option<PathBuf> {
        let source = Path::new("/dev").join(mounted.root.strip_prefix("/").ok()?);
        let linux = self.spec.linux().as_ref()?;
        let hidden = linux.masked_paths().iter().flatten().map(PathBuf::from);
        let own = linux.devices().iter().flatten().map(|device| device.path().clone());
        let is_null = source == Path::new("/dev/null");
        let expected = mounted.place == source
            || own.into_iter().any(|path| path == mounted.place)
            || (is_null && hidden.into_iter().any(|path| path == mounted.place));
        (expected && mounted.kind == "devtmpfs").then_some(source)
    }
}

/// Whether what is at a bind's place has the restrictions that the bind was given.
fn check(mount: &Mount, mounted: &Mounted) -> Result<(), MountTableError> {
    let place = mounted.place.clone();
    let said = || mount.options().iter().flatten().map(String::as_str);
    if mount.uid_mappings().is_some() || said().any(|o| o == "idmap" || o == "ridmap") {
        return Err(MountTableError::Idmapped(place));
    }
    let missing = RESTRICTIONS.into_iter().find(|restriction| {
        let last = said().rfind(|o| o == restriction || opposite(o) == Some(*restriction));
        last == Some(*restriction) && !mounted.restrictions.contains(*restriction)
    });
    match missing {
        Some(restriction) => {
            Err(MountTableError::Changed { place, restriction: restriction.to_owned() })
        }
        None => Ok(()),
    }
}

fn opposite(option: &str) -> Option<&'static str> {
    Some(match option {
        "rw" => "ro",
        "suid" => "nosuid",
        "dev" => "nodev",
        "exec" => "noexec",
        "symfollow" => "nosymfollow",
        _ => return None,
    })
}

fn parse(line: &str) -> Option<Mounted> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ');
    let id = before.next()?.parse().ok()?;
    let (major, minor) = before.nth(1)?.split_once(':')?;
    let (root, place, flags) = (before.next()?, before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let of_mount = flags.split(',').filter(|flag| RESTRICTIONS.contains(flag));
    Some(Mounted {
        id,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root: unescape(root),
        place: unescape(place),
        restrictions: of_mount.map(str::to_owned).collect(),
        kind: kind.to_owned(),
        options: options.to_owned(),
    })
}

/// Spaces and the like are written as `\040`.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) if *first == b'\\' => {
                bytes.push(code);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(line: &str) -> Mounted {
        parse(line).unwrap()
    }

    fn spec(mounts: serde_json::Value) -> Spec {
        serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2", "mounts": mounts,
            "linux": {"maskedPaths": ["/proc/kcore"]},
        }))
        .unwrap()
    }

    fn origin_of(line: &str, spec: &Spec) -> Result<Option<Origin>, MountTableError> {
        let host = [
            mounted("1 0 8:1 / / rw - ext4 /dev/sda rw"),
            mounted("2 1 0:5 / /dev rw - devtmpfs dev rw"),
        ];
        let configured = configured(spec, Path::new("/nonexistent"));
        let outside = Outside { host: &host, configured: &configured, groups: &[], spec };
        Ok(outside.find(&mounted(line))?.map(|external| external.origin))
    }

    fn data(options: &[&str]) -> Spec {
        spec(serde_json::json!([
            {"destination": "/data", "type": "bind", "source": "/srv", "options": options},
        ]))
    }

    #[test]
    fn a_line_is_taken_apart() {
        let mount = mounted("36 35 98:0 /a\\040b /mnt ro,nosuid,noatime master:1 - ext4 /dev/x rw");
        assert_eq!(mount.root, Path::new("/a b"));
        assert_eq!((mount.id, mount.device, mount.kind.as_str()), (36, (98, 0), "ext4"));
        assert!(mount.restrictions.iter().eq(["nosuid", "ro"]));
    }

    #[test]
    fn what_the_configuration_binds_comes_from_outside() {
        let found = origin_of("9 8 8:1 /srv /data rw - ext4 x rw", &data(&["bind"])).unwrap();
        assert_eq!(found, Some(Origin::Bind("/data".into())));
    }

    #[test]
    fn what_was_mounted_for_the_container_does_not() {
        let spec = data(&["bind"]);
        assert_eq!(origin_of("9 8 0:99 / /tmp rw - tmpfs tmpfs rw", &spec).unwrap(), None);
        assert_eq!(origin_of("9 8 0:99 / /data/t rw - tmpfs tmpfs rw", &spec).unwrap(), None);
    }

    #[test]
    fn what_is_not_in_the_configuration_is_refused_by_its_place() {
        for place in ["/sneaked", "/data/below"] {
            let line = format!("9 8 8:1 /etc {place} rw - ext4 x rw");
            let refused = origin_of(&line, &data(&["rbind"]));
            assert!(matches!(refused, Err(MountTableError::Unknown(at)) if at == Path::new(place)));
        }
    }

    #[test]
    fn a_mount_that_lost_a_restriction_is_refused() {
        let line = "9 8 8:1 /srv /data rw - ext4 x rw";
        let refused = origin_of(line, &data(&["bind", "ro"])).unwrap_err();
        assert!(refused.to_string().contains("/data is not ro"), "{refused}");
        assert!(origin_of(line, &data(&["bind", "ro", "rw"])).is_ok());
    }

    #[test]
    fn a_hidden_file_may_have_the_host_s_null_over_it_and_nothing_else_may() {
        let spec = data(&["bind"]);
        let over = |place: &str, root: &str| {
            origin_of(&format!("9 8 0:5 {root} {place} rw - devtmpfs dev rw"), &spec)
        };
        assert_eq!(over("/proc/kcore", "/null").unwrap(), Some(Origin::Device("/dev/null".into())));
        assert_eq!(over("/dev/zero", "/zero").unwrap(), Some(Origin::Device("/dev/zero".into())));
        assert!(over("/proc/kcore", "/mem").is_err());
        assert!(over("/etc/x", "/null").is_err());
    }

    #[test]
    fn mounts_that_came_back_otherwise_are_found() {
        let of = |lines: &[&str]| facts(&lines.iter().map(|l| mounted(l)).collect::<Vec<_>>());
        let proc = "1 0 0:1 / /proc rw - proc proc rw";
        let saved = of(&[proc, "2 1 0:1 /sys /proc/sys ro,relatime - proc proc rw"]);
        let same = of(&["9 8 0:7 /sys /proc/sys ro - proc proc rw", proc]);
        assert_eq!(difference(&saved, &same), None);
        let writable = of(&[proc, "2 1 0:1 /sys /proc/sys rw - proc proc rw"]);
        assert_eq!(difference(&saved, &writable), Some("/proc/sys".into()));
        assert_eq!(difference(&saved, &of(&[proc])), Some("/proc/sys".into()));
    }
}
