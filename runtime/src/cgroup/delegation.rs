//! The control group of a container whose caller is not the machine's root: where there can be one,
//! and making it.
//!
//! With cgroup v2 an administrator, or systemd, gives a user a group: the user owns its folder and
//! its `cgroup.procs`. A process can be moved from one group to another by whoever owns both and what
//! is above them both. With v1 there is no such thing that would be safe.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use super::Groups;
use super::limits::{self, LimitError, Present, Version};
use super::writes::{self, WriteError};

/// Where every distribution mounts them.
const TOP: &str = "/sys/fs/cgroup";

/// Why there is no group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoGroup {
    /// v1, or v1 and v2 beside it.
    #[error(
        "cgroup v1 cannot be delegated to a user: boot with systemd.unified_cgroup_hierarchy=1"
    )]
    V1,
    /// None that is this user's.
    #[error(
        "this user has no control group of their own: start the runtime with \
         `systemd-run --user --scope --property=Delegate=yes`, or have root give one"
    )]
    NotDelegated,
}

impl NoGroup {
    /// For the tables of what is refused.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::V1 => "no limits for an ordinary user: cgroup v1 cannot be delegated",
            Self::NotDelegated => {
                "no limits for an ordinary user without a delegated control group: see \
                 docs/rootless.md, or `systemd-run --user --scope --property=Delegate=yes`"
            }
        }
    }
}

/// What a place depends on.
struct Hierarchy<'a> {
    /// Where v2 is mounted, and nothing else.
    mount_point: &'a Path,
    /// The group that this process is in, from there.
    own: &'a Path,
    /// Whether this user may write to a file or folder.
    may_write: &'a dyn Fn(&Path) -> bool,
}

/// The group of a container: what the spec says, or beside the caller's own, or below it.
fn place(hierarchy: &Hierarchy<'_>, said: Option<&Path>, id: &str) -> Result<PathBuf, NoGroup> {
    let normal = |path: &Path| -> PathBuf {
        path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
    };
    let own = normal(hierarchy.own);
    let candidates = match said.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) if path.is_absolute() => vec![normal(path)],
        other => {
            let name = other.map_or_else(|| id.into(), normal);
            // A group with processes, as the caller's, cannot divide its limits.
            own.parent()
                .map(|above| above.join(&name))
                .into_iter()
                .chain([own.join(&name)])
                .collect()
        }
    };
    candidates
        .iter()
        .find(|candidate| hierarchy.allows(&own, candidate))
        .map(|candidate| hierarchy.mount_point.join(candidate))
        .ok_or(NoGroup::NotDelegated)
}

impl Hierarchy<'_> {
    /// Whether this user can make the group and move a process of the caller's group into it.
    fn allows(&self, own: &Path, candidate: &Path) -> bool {
        let common: PathBuf = own
            .components()
            .zip(candidate.components())
            .take_while(|(a, b)| a == b)
            .map(|(part, _)| part)
            .collect();
        let may_write = |path: &Path| (self.may_write)(&self.mount_point.join(path));
        let folder = self.mount_point.join(candidate);
        let reachable = may_write(&common.join("cgroup.procs"));
        if folder.exists() {
            return reachable && may_write(&candidate.join("cgroup.procs"));
        }
        let above = candidate.ancestors().skip(1).find(|path| self.mount_point.join(path).exists());
        reachable && above.is_some_and(may_write)
    }
}

/// The group as this machine and its user allow.
///
/// # Errors
/// When there is none.
pub fn find(said: Option<&Path>, id: &str) -> Result<PathBuf, NoGroup> {
    if !Path::new(TOP).join("cgroup.controllers").exists() {
        return Err(NoGroup::V1);
    }
    let own = own_group(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
    let hierarchy = Hierarchy {
        mount_point: Path::new(TOP),
        own: &own,
        may_write: &|path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok(),
    };
    place(&hierarchy, said, id)
}

/// The v2 group in a `/proc/<pid>/cgroup`.
#[must_use]
pub fn own_group(text: &str) -> PathBuf {
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").into()
}

/// Why a group was not made.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The folder.
    #[error("Cannot make the control group {path}")]
    Make {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The limits contradict each other.
    #[error("The limits cannot be kept")]
    Limits(#[from] LimitError),
    /// A controller that was not delegated, or a value that the kernel refuses.
    #[error("The container's limits cannot be set in the control group that this user was given")]
    Write(#[from] WriteError),
}

/// Makes the group with its limits, but for that of processes: whoever makes the container is in it.
///
/// # Errors
/// When the kernel refuses. What was made is for the caller to remove.
pub fn make(folder: &Path, resources: Option<&LinuxResources>) -> Result<(), GroupError> {
    let made = |source| GroupError::Make { path: folder.to_owned(), source };
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(made)?;
        enable_controllers(parent);
    }
    fs::create_dir_all(folder).map_err(made)?;
    let Some(resources) = resources else { return Ok(()) };
    let list = limits::writes(Version::V2, resources, Present::default())?;
    Ok(writes::apply(Groups::new(&[folder.to_owned()]), &list)?)
}

/// Makes the groups above one, from the top, and gives those below them every controller that
/// there is: `libcontainer` leaves out those that it sets no limits with.
pub fn offer_controllers(group: &Path) {
    let above = group.parent().unwrap_or(group);
    let mut folder = PathBuf::from(TOP);
    enable_controllers(&folder);
    for name in above.components().filter(|part| matches!(part, Component::Normal(_))) {
        folder.push(name);
        // What cannot be made here is an error where the group itself is made.
        let _ = fs::create_dir(&folder);
        enable_controllers(&folder);
    }
}

/// What cannot be enabled is missed by the limit that needs it, and by no other.
fn enable_controllers(folder: &Path) {
    let all = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    for controller in all.split_ascii_whitespace() {
        let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Whether a group in this place can have limits of a controller.
#[must_use]
pub fn offers(group: &Path, controller: &str) -> bool {
    let Some(parent) = group.ancestors().skip(1).find(|path| path.exists()) else { return false };
    let listed = |name: &str| {
        let text = fs::read_to_string(parent.join(name)).unwrap_or_default();
        text.split_ascii_whitespace().any(|word| word == controller)
    };
    let is_empty = || {
        fs::read_to_string(parent.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty())
    };
    listed("cgroup.subtree_control") || (listed("cgroup.controllers") && is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hierarchy with these groups, of which the user owns those given.
    fn place_in(own: &str, owned: &[&str], said: Option<&str>) -> Result<String, NoGroup> {
        let root = tempfile::tempdir().unwrap();
        for folder in ["user/session", "user/service/app", "given"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let owned: Vec<PathBuf> = owned.iter().map(|path| root.path().join(path)).collect();
        let may_write = |path: &Path| {
            let folder = if path.ends_with("cgroup.procs") { path.parent().unwrap() } else { path };
            owned.iter().any(|own| own == folder)
        };
        let hierarchy =
            Hierarchy { mount_point: root.path(), own: Path::new(own), may_write: &may_write };
        let found = place(&hierarchy, said.map(Path::new), "c")?;
        Ok(found.strip_prefix(root.path()).unwrap().to_str().unwrap().to_owned())
    }

    #[test]
    fn the_group_is_beside_the_caller_s_where_both_are_in_one_of_the_user_s() {
        let owned = ["user/service", "user/service/app"];
        assert_eq!(place_in("/user/service/app", &owned, None).as_deref(), Ok("user/service/c"));
        let said = Some("relative/x");
        assert_eq!(
            place_in("/user/service/app", &owned, said).as_deref(),
            Ok("user/service/relative/x")
        );
    }

    #[test]
    fn the_group_is_below_the_caller_s_where_only_that_is_the_user_s() {
        let owned = ["user/service/app"];
        let placed = place_in("/user/service/app", &owned, None);
        assert_eq!(placed.as_deref(), Ok("user/service/app/c"));
    }

    #[test]
    fn a_group_in_which_no_process_of_the_caller_can_be_moved_is_none() {
        let denied = Err(NoGroup::NotDelegated);
        assert_eq!(place_in("/user/session", &[], None), denied);
        // Given, but the caller is in a group that has only the machine's root in common with it.
        assert_eq!(place_in("/user/session", &["given"], Some("/given/c")), denied);
        assert_eq!(place_in("/", &["given"], None), denied);
    }

    #[test]
    fn an_absolute_path_is_taken_by_its_word() {
        let owned = ["given"];
        assert_eq!(place_in("/given", &owned, Some("/given/a/b")).as_deref(), Ok("given/a/b"));
        assert_eq!(place_in("/given", &owned, Some("/elsewhere")), Err(NoGroup::NotDelegated));
    }

    #[test]
    fn the_own_group_is_that_of_version_2() {
        assert_eq!(own_group("4:memory:/x\n0::/user/a\n"), Path::new("/user/a"));
        assert_eq!(own_group(""), Path::new("/"));
    }

    #[test]
    fn limits_are_written_into_the_group_and_a_controller_that_is_not_there_is_named() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("c");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("memory.max"), "max").unwrap();
        let resources = |value| serde_json::from_value(value).unwrap();
        let memory: LinuxResources = resources(serde_json::json!({"memory": {"limit": 4096}}));
        make(&folder, Some(&memory)).unwrap();
        assert_eq!(fs::read_to_string(folder.join("memory.max")).unwrap(), "4096");
        let cpu: LinuxResources = resources(serde_json::json!({"cpu": {"cpus": "0"}}));
        let error = make(&folder, Some(&cpu)).unwrap_err();
        assert!(crate::host::log::with_causes(&error).contains("cpuset.cpus"));
    }
}
