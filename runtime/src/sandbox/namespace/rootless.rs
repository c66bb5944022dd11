//! What is different for a caller who is not the machine's root: an ordinary user, or the root of a
//! user namespace. A plan: what is refused by name, what does not hold and is named, which user
//! namespace the container is made in, and which control group it gets.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, LinuxResources, PosixRlimitType,
    Spec,
};

use super::own_users::{CGROUPS, OwnUsers};
use super::unsupported::Unsupported;
use crate::cgroup::delegation::{self, NoGroup};
use crate::host::id_maps;
use crate::host::user::User;
use crate::plan::id_mapping;
use crate::plan::own_users::{MAPPED_OWNERS, maps_owners};

/// In `state`: what does not hold for this container because its caller is no root.
const ANNOTATION: &str = "dev.cofferdam.rootless.without";

/// The differences for one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rootless {
    /// To be entered before anything is made. Absent: the caller is some namespace's root already.
    pub(super) users: Option<OwnUsers>,
    /// The folder of the container's control group.
    pub(super) group: Result<PathBuf, NoGroup>,
    /// What does not hold.
    pub(super) without: Vec<String>,
}

/// What the plan depends on beside the spec.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) user: User,
    /// The caller's hard limit of a resource; absent: none.
    pub(super) hard_limit: &'a dyn Fn(PosixRlimitType) -> Option<u64>,
    /// The caller's own OOM score adjustment.
    pub(super) oom_score_adj: i32,
    /// Type and numbers of a device of the host.
    pub(super) device: &'a dyn Fn(&Path) -> Option<(i64, i64)>,
}

impl Rootless {
    /// The differences, for a group that was found or not.
    pub(super) fn plan(spec: &Spec, user: User, group: Result<PathBuf, NoGroup>) -> Self {
        let linux = spec.linux().clone().unwrap_or_default();
        let without = without(&linux, group.as_ref().err().copied());
        Self { users: own_users(&linux, user), group, without }
    }

    /// For `state`.
    pub(super) fn note(&self) -> (String, String) {
        (ANNOTATION.to_owned(), self.without.join("; "))
    }

    /// The folders to be recorded.
    pub(super) fn groups(&self) -> Vec<PathBuf> {
        self.group.iter().cloned().collect()
    }
}

/// Takes out of a spec what is done without `libcontainer`: entering the user namespace and limiting.
pub(super) fn strip(spec: &mut Spec, has_own_users: bool) {
    let Some(linux) = spec.linux_mut() else { return };
    linux.set_resources(None);
    if has_own_users {
        linux.set_uid_mappings(None).set_gid_mappings(None);
        let others = linux.namespaces().iter().flatten();
        let others = others.filter(|n| n.typ() != LinuxNamespaceType::User).cloned().collect();
        linux.set_namespaces(Some(others));
    }
}

/// What shows control groups as a mount that this crate makes itself, after `/sys`, which for an
/// ordinary user is the host's: a file system of version 2 with a cgroup namespace, else the host's
/// own hierarchies.
pub(super) fn show_groups(spec: &mut Spec, is_unified: bool) {
    let linux = spec.linux().clone().unwrap_or_default();
    let has_namespace = namespace(&linux, LinuxNamespaceType::Cgroup).is_some();
    for mount in spec.mounts_mut().iter_mut().flatten() {
        if mount.typ().as_deref() != Some("cgroup") {
            continue;
        }
        if is_unified && has_namespace {
            mount.set_typ(Some("cgroup2".to_owned()));
            continue;
        }
        let said = mount.options().iter().flatten();
        let recursive = |option: &String| match option.as_str() {
            "ro" | "nosuid" | "nodev" | "noexec" => format!("r{option}"),
            other => other.to_owned(),
        };
        let options = std::iter::once("rbind".to_owned()).chain(said.map(recursive)).collect();
        mount.set_typ(Some("bind".to_owned())).set_options(Some(options));
        mount.set_source(Some(CGROUPS.into()));
    }
}

fn own_users(linux: &Linux, user: User) -> Option<OwnUsers> {
    let namespace = namespace(linux, LinuxNamespaceType::User)?;
    if !user.is_ordinary() && namespace.path().is_some() {
        return None;
    }
    let ranges = |given: &Option<Vec<LinuxIdMapping>>| {
        given.iter().flatten().map(id_mapping).collect::<Vec<_>>()
    };
    Some(match namespace.path() {
        Some(path) => OwnUsers::Existing(path.clone()),
        None => OwnUsers::New {
            users: ranges(linux.uid_mappings()),
            groups: ranges(linux.gid_mappings()),
        },
    })
}

fn namespace(linux: &Linux, kind: LinuxNamespaceType) -> Option<&LinuxNamespace> {
    linux.namespaces().iter().flatten().find(|namespace| namespace.typ() == kind)
}

/// What was asked for, or is always so, and does not hold. Each is harmless without: the kernel
/// keeps the user from what it would forbid.
fn without(linux: &Linux, no_group: Option<NoGroup>) -> Vec<String> {
    let mut list = Vec::new();
    if let Some(no_group) = no_group {
        list.push(format!("a control group ({no_group})"));
    }
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_ref());
    if rules.is_some_and(|rules| !rules.is_empty()) {
        list.push(
            "linux.resources.devices (no user can make device nodes, and those of the host keep \
             their permissions)"
                .to_owned(),
        );
    }
    let changed = linux.devices().iter().flatten().any(|device| {
        device.file_mode().is_some() || device.uid().is_some() || device.gid().is_some()
    });
    if changed {
        list.push("mode and owners in linux.devices (they are the host's own nodes)".to_owned());
    }
    list
}

/// Every field of the spec that a caller without the machine's root cannot have.
pub(super) fn unsupported(
    spec: &Spec,
    group: Option<NoGroup>,
    facts: Facts<'_>,
) -> Vec<Unsupported> {
    let mut found = Refusals(Vec::new());
    let linux = spec.linux().clone().unwrap_or_default();
    in_process(spec, &linux, facts, &mut found);
    in_linux(&linux, facts, &mut found);
    for (number, mount) in spec.mounts().iter().flatten().enumerate() {
        found.add(maps_owners(mount), format!("mounts[{number}]"), MAPPED_OWNERS);
    }
    if let Some(reason) = group.map(NoGroup::reason) {
        without_group(&linux, reason, &mut found);
    }
    found.0
}

struct Refusals(Vec<Unsupported>);

impl Refusals {
    fn add(&mut self, is_set: bool, path: impl Into<String>, reason: &'static str) {
        if is_set {
            self.0.push(Unsupported { path: path.into(), reason, is_idle: false });
        }
    }
}

fn in_process(spec: &Spec, linux: &Linux, facts: Facts<'_>, found: &mut Refusals) {
    let Some(process) = spec.process() else { return };
    for (number, limit) in process.rlimits().iter().flatten().enumerate() {
        let above = (facts.hard_limit)(limit.typ()).is_some_and(|own| limit.hard() > own);
        found.add(
            above,
            format!("process.rlimits[{number}].hard"),
            "above the caller's own hard limit, which only root can raise (ulimit -H)",
        );
    }
    found.add(
        process.oom_score_adj().is_some_and(|score| score < facts.oom_score_adj),
        "process.oomScoreAdj",
        "only root can lower it below the caller's own",
    );
    let asked = process.user().additional_gids().as_ref().is_some_and(|list| !list.is_empty());
    let groups: Vec<_> = linux.gid_mappings().iter().flatten().map(id_mapping).collect();
    let is_new = namespace(linux, LinuxNamespaceType::User).is_some_and(|n| n.path().is_none());
    found.add(
        asked && is_new && id_maps::forbids_groups(&groups, facts.user),
        "process.user.additionalGids",
        "a user namespace with the caller's group alone allows none: map subordinate groups in \
         linux.gidMappings (/etc/subgid)",
    );
}

fn in_linux(linux: &Linux, facts: Facts<'_>, found: &mut Refusals) {
    let has_users = namespace(linux, LinuxNamespaceType::User).is_some();
    found.add(
        facts.user.is_ordinary() && !has_users,
        "linux.namespaces",
        // The first words are runc's.
        "rootless container requires user namespaces: `cofferdam spec --rootless` writes one",
    );
    found.add(
        linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()),
        "linux.netDevices",
        "only root can take a device from the host",
    );
    for (number, device) in linux.devices().iter().flatten().enumerate() {
        let same = (facts.device)(device.path()) == Some((device.major(), device.minor()));
        found.add(
            !same,
            format!("linux.devices[{number}]"),
            "only root can make a device, and the host has no such one at this path",
        );
    }
}

/// What holds in a control group alone.
fn without_group(linux: &Linux, reason: &'static str, found: &mut Refusals) {
    for field in limited_fields(linux.resources().as_ref()) {
        found.add(true, format!("linux.resources.{field}"), reason);
    }
    let pids = namespace(linux, LinuxNamespaceType::Pid);
    found.add(
        pids.is_none_or(|namespace| namespace.path().is_some()),
        "linux.namespaces",
        "without a control group a new pid namespace is what the container's processes are found by",
    );
}

/// The limits that are asked for, by the names of their fields.
fn limited_fields(resources: Option<&LinuxResources>) -> Vec<&'static str> {
    let Some(resources) = resources else { return Vec::new() };
    let value = serde_json::to_value(resources).unwrap_or_default();
    let asked = |field: &str| match value.get(field) {
        None | Some(serde_json::Value::Null) => false,
        Some(serde_json::Value::Object(members)) => {
            members.values().any(|member| !member.is_null())
        }
        Some(serde_json::Value::Array(entries)) => !entries.is_empty(),
        Some(_) => true,
    };
    ["memory", "cpu", "pids", "blockIO", "hugepageLimits", "network", "rdma", "unified"]
        .into_iter()
        .filter(|field| asked(field))
        .filter(|field| *field != "pids" || is_limited(resources))
        .collect()
}

/// A negative number of processes is no limit.
fn is_limited(resources: &LinuxResources) -> bool {
    resources.pids().as_ref().is_some_and(|pids| pids.limit() >= 0)
}

/// What hardening may add to the group.
pub(super) fn offers(group: &Result<PathBuf, NoGroup>, controller: &str) -> bool {
    group.as_ref().is_ok_and(|folder| delegation::offers(folder, controller))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const USER: User = User { uid: 1000, gid: 1000, in_user_namespace: false };

    fn facts(user: User) -> Facts<'static> {
        Facts {
            user,
            hard_limit: &|_| Some(4096),
            oom_score_adj: 100,
            device: &|path| (path == Path::new("/dev/fuse")).then_some((10, 229)),
        }
    }

    /// The rootless template with a change.
    fn spec(change: impl FnOnce(&mut Value)) -> Spec {
        let text = crate::spec::template::rootless(1000, 1000);
        let mut document: Value = serde_json::from_str(&text).unwrap();
        change(&mut document);
        serde_json::from_value(document).unwrap()
    }

    fn refused(group: Option<NoGroup>, change: impl FnOnce(&mut Value)) -> Vec<String> {
        let found = unsupported(&spec(change), group, facts(USER));
        found.into_iter().map(|field| field.path).collect()
    }

    #[test]
    fn the_template_is_served_without_a_group() {
        assert!(refused(Some(NoGroup::V1), |_| {}).is_empty());
    }

    #[test]
    fn limits_are_refused_by_name_where_there_is_no_group_for_them() {
        let limits = |document: &mut Value| {
            document["linux"]["resources"] = json!({
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": 1 << 20},
                "cpu": {},
                "pids": {"limit": -1},
                "unified": {"memory.high": "1"},
            });
        };
        let found = refused(Some(NoGroup::NotDelegated), limits);
        assert_eq!(found, ["linux.resources.memory", "linux.resources.unified"]);
        assert!(refused(None, limits).is_empty());
    }

    #[test]
    fn what_only_root_can_do_is_refused_by_name() {
        let found = refused(None, |document| {
            document["process"]["rlimits"] = json!([
                {"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 1},
                {"type": "RLIMIT_CORE", "hard": 4097, "soft": 1},
            ]);
            document["process"]["oomScoreAdj"] = json!(99);
            document["process"]["user"]["additionalGids"] = json!([5]);
            document["linux"]["devices"] = json!([
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
                {"path": "/dev/mine", "type": "c", "major": 10, "minor": 229},
            ]);
            document["mounts"][0]["options"] = json!(["idmap"]);
        });
        assert_eq!(
            found,
            [
                "process.rlimits[1].hard",
                "process.oomScoreAdj",
                "process.user.additionalGids",
                "linux.devices[1]",
                "mounts[0]",
            ]
        );
    }

    #[test]
    fn subordinate_groups_can_be_supplementary_ones() {
        let found = refused(None, |document| {
            document["process"]["user"]["additionalGids"] = json!([5]);
            document["linux"]["gidMappings"] =
                json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
        });
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_user_needs_a_user_namespace_and_a_namespace_s_root_does_not() {
        let none = |document: &mut Value| {
            document["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}]);
        };
        assert_eq!(refused(None, none), ["linux.namespaces"]);
        let root = User { uid: 0, gid: 0, in_user_namespace: true };
        assert!(unsupported(&spec(none), None, facts(root)).is_empty());
        assert_eq!(Rootless::plan(&spec(none), root, Err(NoGroup::V1)).users, None);
    }

    #[test]
    fn without_a_group_the_processes_are_found_by_a_pid_namespace() {
        let shared = |document: &mut Value| {
            document["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "user"}]);
        };
        assert_eq!(refused(Some(NoGroup::V1), shared), ["linux.namespaces"]);
        assert!(refused(None, shared).is_empty());
    }

    #[test]
    fn what_does_not_hold_is_named() {
        let devices = json!({"devices": [{"allow": false, "access": "rwm"}]});
        let spec = spec(|document| document["linux"]["resources"] = devices);
        let plan = Rootless::plan(&spec, USER, Err(NoGroup::V1));
        let (_, said) = plan.note();
        assert!(said.contains("a control group (cgroup v1"), "{said}");
        assert!(said.contains("linux.resources.devices"), "{said}");
        let plan = Rootless::plan(&spec, USER, Ok("/sys/fs/cgroup/mine".into()));
        assert!(!plan.note().1.contains("control group"));
    }

    #[test]
    fn control_groups_are_shown_as_the_host_or_a_namespace_has_them() {
        let shown = |is_unified| {
            let mut spec = spec(|_| {});
            show_groups(&mut spec, is_unified);
            let mount = spec.mounts().iter().flatten().last().cloned().unwrap();
            (mount.typ().clone().unwrap(), mount.options().clone().unwrap_or_default())
        };
        assert_eq!(shown(true).0, "cgroup2");
        let (typ, options) = shown(false);
        assert_eq!(typ, "bind");
        assert_eq!(options, ["rbind", "rnosuid", "rnoexec", "rnodev", "relatime", "rro"]);
    }

    #[test]
    fn libcontainer_is_left_no_user_namespace_and_no_limits() {
        let mut spec =
            spec(|document| document["linux"]["resources"] = json!({"pids": {"limit": 5}}));
        strip(&mut spec, true);
        let linux = spec.linux().clone().unwrap();
        assert_eq!((linux.resources(), linux.uid_mappings()), (&None, &None));
        assert!(namespace(&linux, LinuxNamespaceType::User).is_none());
        assert!(namespace(&linux, LinuxNamespaceType::Pid).is_some());
    }
}
