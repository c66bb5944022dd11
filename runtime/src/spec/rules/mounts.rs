//! `mounts`, and mappings of user and group numbers.

use oci_spec::runtime::{LinuxIdMapping, Mount, Spec};

use super::InvalidSpec;
use super::value::{no_nul, no_nuls, number, refused, text};

/// `mount(2)` takes one page of options, with the NUL at its end.
const MAX_DATA: usize = 4095;
/// Linux takes no more lines (`UID_GID_MAP_MAX_EXTENTS`).
const MAX_MAPPINGS: usize = 340;

/// The rules for mounts. Targets without a leading slash are from the root: the specification says
/// absolute, but runc takes both, and engines rely on it. What must be is a target at all.
pub(super) fn check(spec: &Spec) -> Result<(), InvalidSpec> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    mounts.iter().enumerate().try_for_each(|(index, mount)| check_one(index, mount))
}

fn check_one(index: usize, mount: &Mount) -> Result<(), InvalidSpec> {
    let path = format!("mounts[{index}]");
    text(&format!("{path}.destination"), &mount.destination().to_string_lossy())?;
    no_nul(&format!("{path}.type"), mount.typ().as_deref().unwrap_or_default())?;
    let source = mount.source().as_ref().map(|source| source.to_string_lossy());
    no_nul(&format!("{path}.source"), source.as_deref().unwrap_or_default())?;
    let options = mount.options().as_deref().unwrap_or_default();
    no_nuls(&format!("{path}.options"), Some(options))?;
    if options.iter().map(|option| option.len() + 1).sum::<usize>() > MAX_DATA {
        let first = options.first().map(String::as_str).unwrap_or_default();
        return Err(refused(&format!("{path}.options"), first, "at most 4095 bytes in all"));
    }
    let is_bind = mount.typ().as_deref() == Some("bind")
        || options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind"));
    if is_bind {
        text(&format!("{path}.source"), source.as_deref().unwrap_or_default())?;
    }
    mapped(&path, mount, is_bind)
}

fn mapped(path: &str, mount: &Mount, is_bind: bool) -> Result<(), InvalidSpec> {
    let uids = mount.uid_mappings().as_deref().unwrap_or_default();
    let gids = mount.gid_mappings().as_deref().unwrap_or_default();
    let (uid_path, gid_path) = (format!("{path}.uidMappings"), format!("{path}.gidMappings"));
    mappings(&uid_path, uids)?;
    mappings(&gid_path, gids)?;
    let without = |path, needed| Err(InvalidSpec::Without { path, needed });
    match (uids.is_empty(), gids.is_empty()) {
        (false, true) => without(uid_path, "gidMappings of the same mount"),
        (true, false) => without(gid_path, "uidMappings of the same mount"),
        (false, false) if !is_bind => without(uid_path, "a bind mount"),
        (false, false) | (true, true) => Ok(()),
    }
}

/// Mappings are of numbers that there are, and of each one once.
pub(super) fn mappings(path: &str, list: &[LinuxIdMapping]) -> Result<(), InvalidSpec> {
    if list.len() > MAX_MAPPINGS {
        return Err(number(path, list.len(), "at most 340 mappings"));
    }
    for (index, mapping) in list.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let (size, path_of_size) = (mapping.size(), format!("{path}.size"));
        if size == 0 {
            return Err(number(&path_of_size, size, "1 or more"));
        }
        let first = mapping.container_id().max(mapping.host_id());
        if u64::from(first) + u64::from(size) > u64::from(u32::MAX) {
            return Err(number(&path_of_size, size, "what ends at 4294967294"));
        }
        let earlier = || list.iter().take(index);
        if earlier()
            .any(|other| overlap(other.container_id(), other.size(), mapping.container_id(), size))
        {
            let allowed = "ranges that do not overlap";
            return Err(number(&format!("{path}.containerID"), mapping.container_id(), allowed));
        }
        if earlier().any(|other| overlap(other.host_id(), other.size(), mapping.host_id(), size)) {
            let allowed = "ranges that do not overlap";
            return Err(number(&format!("{path}.hostID"), mapping.host_id(), allowed));
        }
    }
    Ok(())
}

/// Sums were checked.
fn overlap(a: u32, a_size: u32, b: u32, b_size: u32) -> bool {
    a < b.saturating_add(b_size) && b < a.saturating_add(a_size)
}
