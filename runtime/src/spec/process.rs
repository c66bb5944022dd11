//! One more process in a container: what the flags of `exec` say, over the container's own
//! process, as runc has it.

use std::path::PathBuf;

use oci_spec::runtime::{Capabilities, Capability, Process};

/// What `exec`'s flags change of the container's process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessOverrides {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `--cwd`.
    pub cwd: Option<PathBuf>,
    /// `--env`: added to the container's.
    pub env: Vec<String>,
    /// `--tty`.
    pub terminal: bool,
    /// `--user`.
    pub user: Option<UserOverride>,
    /// `--additional-gids`: added to the container's.
    pub additional_gids: Vec<u32>,
    /// `--cap`: added to every set but the inheritable one; to the ambient one where that is used.
    pub capabilities: Vec<Capability>,
    /// `--no-new-privs`.
    pub no_new_privileges: bool,
    /// `--apparmor`.
    pub apparmor: Option<String>,
    /// `--process-label`.
    pub label: Option<String>,
}

/// `--user UID[:GID]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserOverride {
    /// User.
    pub uid: u32,
    /// Group; without one the container's stays.
    pub gid: Option<u32>,
}

/// The text is not `UID[:GID]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a user: UID or UID:GID, both numbers")]
pub struct InvalidUser(String);

impl std::str::FromStr for UserOverride {
    type Err = InvalidUser;

    fn from_str(text: &str) -> Result<Self, InvalidUser> {
        let invalid = || InvalidUser(text.to_owned());
        let number = |text: &str| text.parse().map_err(|_| invalid());
        match text.split_once(':') {
            Some((uid, gid)) => Ok(Self { uid: number(uid)?, gid: Some(number(gid)?) }),
            None => Ok(Self { uid: number(text)?, gid: None }),
        }
    }
}

/// The process that runs: the container's, changed as the flags say.
#[must_use]
pub fn assemble(container: &Process, overrides: ProcessOverrides) -> Process {
    let mut process = container.clone();
    process.set_args(Some(overrides.args));
    process.set_terminal(Some(overrides.terminal));
    process.set_console_size(None);
    if let Some(cwd) = overrides.cwd {
        process.set_cwd(cwd);
    }
    if let Some(profile) = overrides.apparmor {
        process.set_apparmor_profile(Some(profile));
    }
    if let Some(label) = overrides.label {
        process.set_selinux_label(Some(label));
    }
    if overrides.no_new_privileges {
        process.set_no_new_privileges(Some(true));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(overrides.env);
    process.set_env(Some(env));
    set_user(&mut process, overrides.user, &overrides.additional_gids);
    add_capabilities(&mut process, &overrides.capabilities);
    process
}

fn set_user(process: &mut Process, user: Option<UserOverride>, additional: &[u32]) {
    let mut changed = process.user().clone();
    if let Some(user) = user {
        changed.set_uid(user.uid);
        if let Some(gid) = user.gid {
            changed.set_gid(gid);
        }
    }
    if !additional.is_empty() {
        let mut groups = changed.additional_gids().clone().unwrap_or_default();
        groups.extend_from_slice(additional);
        changed.set_additional_gids(Some(groups));
    }
    process.set_user(changed);
}

fn add_capabilities(process: &mut Process, added: &[Capability]) {
    if added.is_empty() {
        return;
    }
    let with_added = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(added.iter().copied());
        Some(set)
    };
    let mut sets = process.capabilities().clone().unwrap_or_default();
    sets.set_bounding(with_added(sets.bounding()));
    sets.set_effective(with_added(sets.effective()));
    sets.set_permitted(with_added(sets.permitted()));
    // Ambient needs inheritable, which is not added to: without any of it there is no use. As runc.
    if sets.inheritable().as_ref().is_some_and(|set| !set.is_empty()) {
        sets.set_ambient(with_added(sets.ambient()));
    }
    process.set_capabilities(Some(sets));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Process {
        let spec: oci_spec::runtime::Spec =
            serde_json::from_str(crate::spec::template::ROOTFUL).unwrap();
        spec.process().clone().unwrap()
    }

    fn overrides() -> ProcessOverrides {
        ProcessOverrides { args: vec!["id".into()], ..ProcessOverrides::default() }
    }

    #[test]
    fn without_flags_it_is_the_containers_process_with_other_arguments() {
        let process = assemble(&container(), overrides());
        let mut expected = container();
        expected.set_args(Some(vec!["id".into()])).set_terminal(Some(false));
        assert_eq!(process, expected);
    }

    #[test]
    fn environment_and_groups_are_added() {
        let flags =
            ProcessOverrides { env: vec!["A=b".into()], additional_gids: vec![7], ..overrides() };
        let process = assemble(&container(), flags);
        assert_eq!(process.env().as_ref().unwrap().last().unwrap(), "A=b");
        assert_eq!(process.env().as_ref().unwrap().len(), 3);
        assert_eq!(process.user().additional_gids().as_deref(), Some([7].as_slice()));
    }

    #[test]
    fn a_user_without_group_keeps_the_group() {
        let mut own = container();
        own.set_user(serde_json::from_str(r#"{"uid": 1, "gid": 2}"#).unwrap());
        let flags = |user: &str| ProcessOverrides { user: user.parse().ok(), ..overrides() };
        let user = |flags| {
            let process = assemble(&own, flags);
            (process.user().uid(), process.user().gid())
        };
        assert_eq!(user(flags("5")), (5, 2));
        assert_eq!(user(flags("5:6")), (5, 6));
    }

    #[test]
    fn a_user_is_numbers() {
        for text in ["", "root", "1:", ":1", "1:2:3", "-1", "4294967296"] {
            assert!(text.parse::<UserOverride>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_capability_is_added_to_three_sets_and_to_ambient_where_that_is_of_use() {
        let flags = ProcessOverrides { capabilities: vec![Capability::SysPtrace], ..overrides() };
        let has = |set: &Option<Capabilities>| {
            set.as_ref().is_some_and(|set| set.contains(&Capability::SysPtrace))
        };
        let mut own = container();
        for inheritable in [vec![], vec![Capability::Kill]] {
            let mut sets = own.capabilities().clone().unwrap();
            sets.set_inheritable(Some(inheritable.iter().copied().collect()));
            own.set_capabilities(Some(sets));
            let sets = assemble(&own, flags.clone()).capabilities().clone().unwrap();
            assert!(has(sets.bounding()) && has(sets.effective()) && has(sets.permitted()));
            assert_eq!(has(sets.ambient()), !inheritable.is_empty());
            assert!(!has(sets.inheritable()));
        }
    }
}
