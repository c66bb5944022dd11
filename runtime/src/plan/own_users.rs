//! The users of a microVM whose caller is an ordinary user.
//!
//! Such a caller has few ids on the host: the own one, and subordinate ones. The monitor's user
//! namespace says once which they are inside, as the spec's mappings have it: the guest's ids are
//! then the container's own, and a user namespace in the guest maps each of them to itself.

use cofferdam_protocol::plan::IdMappingPlan;
use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, Mount, Spec,
};

use super::mounts::id_mapping;
use super::refusal::Refusal;
use crate::host::subordinate::{Range, Subordinate};
use crate::host::user::User;
use crate::spec::rules::has_user_namespace;

/// Why no ordinary user gets a mount that [`maps_owners`].
pub const MAPPED_OWNERS: &str = "only root can map the owners of a mount";

/// Why no ordinary user's microVM joins a network namespace.
pub const NO_INTERFACES: &str = "only root can connect a microVM to a network";

/// The maps of the monitor's user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserMaps {
    /// Users.
    pub users: Vec<IdMappingPlan>,
    /// Groups.
    pub groups: Vec<IdMappingPlan>,
}

impl UserMaps {
    /// The spec's; where it has none, the caller is root and the subordinate ids come next.
    #[must_use]
    pub fn plan(spec: &Spec, user: User, subordinate: Subordinate) -> Self {
        let (users, groups) = mappings(spec);
        if has_user_namespace(spec) && !users.is_empty() && !groups.is_empty() {
            return Self { users, groups };
        }
        Self {
            users: with_subordinate(user.uid, subordinate.users),
            groups: with_subordinate(user.gid, subordinate.groups),
        }
    }
}

/// The spec as the guest is to have it: each id is itself.
#[must_use]
pub fn inside(spec: &Spec) -> Spec {
    let mut spec = spec.clone();
    let identity = |list: &Option<Vec<LinuxIdMapping>>| {
        Some(list.as_ref()?.iter().filter_map(to_itself).collect::<Vec<_>>())
    };
    if let Some(linux) = spec.linux_mut() {
        let (users, groups) = (identity(linux.uid_mappings()), identity(linux.gid_mappings()));
        linux.set_uid_mappings(users).set_gid_mappings(groups);
    }
    spec
}

fn to_itself(mapping: &LinuxIdMapping) -> Option<LinuxIdMapping> {
    let inside = mapping.container_id();
    let builder = LinuxIdMappingBuilder::default().container_id(inside).host_id(inside);
    builder.size(mapping.size()).build().ok()
}

/// What an ordinary user cannot have in a microVM.
#[must_use]
pub fn refused(spec: &Spec, user: User) -> Vec<Refusal> {
    let mut found = Vec::new();
    if !user.is_ordinary() {
        return found;
    }
    let mut add = |field: String, reason| found.push(Refusal { field, reason });
    let (users, groups) = mappings(spec);
    let maps = [("uid", users, user.uid), ("gid", groups, user.gid)];
    for (kind, ranges, own) in maps.into_iter().filter(|_| has_user_namespace(spec)) {
        let is_root =
            ranges.iter().any(|range| range.inside == 0 && range.outside == own && range.count > 0);
        if !is_root {
            add(
                format!("linux.{kind}Mappings"),
                "in an ordinary user's microVM the container's 0 is the user",
            );
        }
    }
    for (number, namespace) in namespaces(spec).iter().enumerate() {
        if namespace.typ() == LinuxNamespaceType::Network && namespace.path().is_some() {
            add(format!("linux.namespaces[{number}].path"), NO_INTERFACES);
        }
    }
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    if devices.is_some_and(|devices| !devices.is_empty()) {
        add("linux.netDevices".to_owned(), NO_INTERFACES);
    }
    for (number, mount) in spec.mounts().iter().flatten().enumerate() {
        if maps_owners(mount) {
            add(format!("mounts[{number}]"), MAPPED_OWNERS);
        }
    }
    found
}

fn namespaces(spec: &Spec) -> &[LinuxNamespace] {
    let linux = spec.linux().as_ref();
    linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default()
}

/// Whether a mount is to show its files with other owners than they have.
#[must_use]
pub fn maps_owners(mount: &Mount) -> bool {
    mount.uid_mappings().as_ref().is_some_and(|list| !list.is_empty())
        || mount.options().iter().flatten().any(|option| option == "idmap" || option == "ridmap")
}

fn mappings(spec: &Spec) -> (Vec<IdMappingPlan>, Vec<IdMappingPlan>) {
    let linux = spec.linux().clone().unwrap_or_default();
    let ranges =
        |list: &Option<Vec<LinuxIdMapping>>| list.iter().flatten().map(id_mapping).collect();
    (ranges(linux.uid_mappings()), ranges(linux.gid_mappings()))
}

fn with_subordinate(own: u32, subordinate: Option<Range>) -> Vec<IdMappingPlan> {
    let own = IdMappingPlan { inside: 0, outside: own, count: 1 };
    let others = subordinate.map(|(outside, count)| IdMappingPlan { inside: 1, outside, count });
    std::iter::once(own).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const USER: User = User { uid: 1000, gid: 100, in_user_namespace: false };

    fn range(inside: u32, outside: u32, count: u32) -> IdMappingPlan {
        IdMappingPlan { inside, outside, count }
    }

    fn spec(linux: serde_json::Value) -> Spec {
        serde_json::from_value(json!({ "ociVersion": "1.2.0", "linux": linux })).unwrap()
    }

    fn with_users(root: u32) -> Spec {
        spec(json!({
            "namespaces": [{"type": "user"}],
            "uidMappings": [
                {"containerID": 0, "hostID": root, "size": 1},
                {"containerID": 1, "hostID": 100_000, "size": 9},
            ],
            "gidMappings": [{"containerID": 0, "hostID": 100, "size": 1}],
        }))
    }

    #[test]
    fn without_mappings_the_caller_is_root_and_subordinate_ids_come_next() {
        let subordinate = Subordinate { users: Some((100_000, 65536)), groups: None };
        let maps = UserMaps::plan(&spec(json!({})), USER, subordinate);
        assert_eq!(maps.users, [range(0, 1000, 1), range(1, 100_000, 65536)]);
        assert_eq!(maps.groups, [range(0, 100, 1)]);
    }

    #[test]
    fn mappings_are_the_monitor_s_and_the_guest_has_each_id_as_it_is() {
        let spec = with_users(1000);
        let maps = UserMaps::plan(&spec, USER, Subordinate::default());
        assert_eq!(maps.users, [range(0, 1000, 1), range(1, 100_000, 9)]);
        let (users, groups) = mappings(&inside(&spec));
        assert_eq!(users, [range(0, 0, 1), range(1, 1, 9)]);
        assert_eq!(groups, [range(0, 0, 1)]);
    }

    #[test]
    fn the_container_s_root_must_be_the_caller() {
        let fields = |spec: &Spec, user| -> Vec<String> {
            refused(spec, user).into_iter().map(|refusal| refusal.field).collect()
        };
        assert!(fields(&with_users(1000), USER).is_empty());
        assert_eq!(fields(&with_users(100_000), USER), ["linux.uidMappings"]);
        let root = User { uid: 0, gid: 0, in_user_namespace: false };
        assert!(fields(&with_users(100_000), root).is_empty());
    }

    #[test]
    fn mapped_owners_of_a_mount_are_refused() {
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "mounts": [
                {"destination": "/a", "source": "/a", "options": ["bind"]},
                {"destination": "/b", "source": "/b", "options": ["bind", "idmap"]},
            ],
        }))
        .unwrap();
        let found: Vec<_> = refused(&spec, USER).into_iter().map(|r| (r.field, r.reason)).collect();
        assert_eq!(found, [("mounts[1]".to_owned(), MAPPED_OWNERS)]);
    }

    #[test]
    fn interfaces_are_refused_by_name() {
        let networks = spec(json!({
            "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/a"}],
            "netDevices": { "eth0": {} }
        }));
        let fields: Vec<_> =
            refused(&networks, USER).into_iter().map(|refusal| refusal.field).collect();
        assert_eq!(fields, ["linux.namespaces[1].path", "linux.netDevices"]);
        let alone = spec(json!({ "namespaces": [{"type": "network"}] }));
        assert_eq!(refused(&alone, USER), []);
    }
}
