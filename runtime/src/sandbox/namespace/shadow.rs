//! The spec as `libcontainer` gets it: without what this crate does itself.

use std::path::Path;

use oci_spec::runtime::{Hook, Hooks, LinuxResources, Spec, UserBuilder};

/// What `libcontainer` is to see, and the hooks that it is not to run.
pub(super) struct Shadow {
    pub(super) spec: Spec,
    pub(super) start_hooks: Vec<Hook>,
    pub(super) masked_paths: Vec<String>,
}

/// Takes out of a checked spec what [`super::process`] does.
///
/// The environment matters although nothing is executed with it: without `HOME`, `libcontainer`
/// asks libc for the user's folder, and libc would load the container's own NSS libraries into a
/// process that still has every privilege.
pub(super) fn make(spec: &Spec, rootfs: &Path) -> Shadow {
    let mut shadow = spec.clone();
    let mut masked_paths = Vec::new();
    if let Some(root) = shadow.root_mut() {
        root.set_path(rootfs.to_owned());
    }
    if let Some(process) = shadow.process_mut() {
        process
            .set_user(UserBuilder::default().build().unwrap_or_default())
            .set_env(Some(vec!["HOME=/".to_owned(), "PATH=/".to_owned()]))
            .set_args(Some(vec!["/".to_owned()]))
            .set_cwd("/".into())
            .set_capabilities(None)
            .set_no_new_privileges(None)
            .set_rlimits(None)
            .set_oom_score_adj(None)
            .set_scheduler(None)
            .set_io_priority(None)
            .set_exec_cpu_affinity(None);
    }
    if let Some(linux) = shadow.linux_mut() {
        masked_paths = linux.masked_paths().clone().map(without_repetitions).unwrap_or_default();
        linux.set_masked_paths(None);
        linux.set_seccomp(None).set_memory_policy(None).set_personality(None);
        linux.set_mount_label(None);
        let propagation = linux.rootfs_propagation().as_deref().map(plain_propagation);
        linux.set_rootfs_propagation(propagation);
    }
    let (hooks, start_hooks) = split_hooks(spec.hooks().clone());
    shadow.set_hooks(hooks);
    Shadow { spec: shadow, start_hooks, masked_paths }
}

/// The limit of processes as the kernel takes it. `libcontainer` would set it before its own
/// processes have forked, for whom one process is too few. As with runc 0 is as little as 1, and
/// only a negative number is none.
pub(super) fn take_pids_limit(spec: &mut Spec) -> Option<String> {
    let resources = spec.linux_mut().as_mut()?.resources_mut().as_mut()?;
    let limit = resources.pids().as_ref()?.limit();
    resources.set_pids(None);
    Some(if limit < 0 { "max".to_owned() } else { limit.max(1).to_string() })
}

/// Limits that `libcontainer` does not set right: it passes over the weights of single disks on
/// v1, and writes several lines to a file of v2 that takes them one by one.
pub(super) fn take_limits(spec: &mut Spec, unified: bool) -> Option<LinuxResources> {
    let resources = spec.linux_mut().as_mut()?.resources_mut().as_mut()?;
    let mut own = LinuxResources::default();
    own.set_devices(None).set_block_io(resources.block_io().clone());
    resources.set_block_io(None);
    if unified {
        own.set_unified(resources.unified().clone());
        resources.set_unified(None);
    }
    Some(own)
}

fn without_repetitions(paths: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    paths.into_iter().filter(|path| seen.insert(path.clone())).collect()
}

/// `libcontainer` knows the recursive kinds by the names of the others; it applies all of them
/// recursively before the mounts.
fn plain_propagation(kind: &str) -> String {
    kind.strip_prefix('r').unwrap_or(kind).to_owned()
}

/// `libcontainer` runs those of `create`; those of `startContainer` are run by
/// [`super::executor`], and the rest by the verbs.
fn split_hooks(hooks: Option<Hooks>) -> (Option<Hooks>, Vec<Hook>) {
    let Some(mut hooks) = hooks else { return (None, Vec::new()) };
    let start = hooks.start_container().clone().unwrap_or_default();
    hooks.set_start_container(None).set_poststart(None).set_poststop(None);
    #[allow(deprecated, reason = "engines still send prestart hooks")]
    let idle = hooks.prestart().as_ref().is_none_or(Vec::is_empty)
        && hooks.create_runtime().as_ref().is_none_or(Vec::is_empty)
        && hooks.create_container().as_ref().is_none_or(Vec::is_empty);
    ((!idle).then_some(hooks), start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_container_s_process_is_left() {
        let shadow = make(&Spec::default(), Path::new("/rootfs")).spec;
        let process = shadow.process().clone().unwrap();
        assert_eq!(process.capabilities(), &None);
        assert_eq!(process.no_new_privileges(), None);
        assert!(process.env().iter().flatten().any(|e| e == "HOME=/"));
        assert_eq!(shadow.root().as_ref().unwrap().path(), Path::new("/rootfs"));
    }

    #[test]
    fn a_limit_of_no_processes_is_one_of_one() {
        let of = |limit: i64| {
            let mut spec: Spec = serde_json::from_value(serde_json::json!({
                "ociVersion": "1.0.2",
                "linux": {"resources": {"pids": {"limit": limit}}},
            }))
            .unwrap();
            take_pids_limit(&mut spec)
        };
        assert_eq!(of(0).as_deref(), Some("1"));
        assert_eq!(of(-1).as_deref(), Some("max"));
        assert_eq!(of(7).as_deref(), Some("7"));
        assert_eq!(take_pids_limit(&mut Spec::default()), None);
    }

    #[test]
    fn limits_of_disks_are_not_libcontainer_s() {
        let mut spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2",
            "linux": {"resources": {"blockIO": {"weight": 100}, "unified": {"io.max": "1"}}},
        }))
        .unwrap();
        let own = take_limits(&mut spec, false).unwrap();
        assert_eq!(own.block_io().as_ref().unwrap().weight(), Some(100));
        assert_eq!(own.unified(), &None);
        let own = take_limits(&mut spec, true).unwrap();
        assert_eq!((own.block_io(), own.unified().is_some()), (&None, true));
        let left = take_limits(&mut spec, true).unwrap();
        assert_eq!(left.unified(), &None);
    }

    #[test]
    fn recursive_propagation_has_the_plain_name() {
        assert_eq!(plain_propagation("rslave"), "slave");
        assert_eq!(plain_propagation("shared"), "shared");
    }
}
