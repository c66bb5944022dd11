//! The container: everything that the agent makes before its program runs.

use std::collections::BTreeMap;

use cofferdam_protocol::plan::{ContainerPlan, HookPlan, TimeOffsetPlan, UserNamespacePlan};
use oci_spec::runtime::{Hook, LinuxNamespaceType, LinuxTimeOffset, Spec};

use super::{PlanError, PlanInput, SharePlan, cgroup, devices, mount_options, mounts, process};

/// The container's plan and the shares that its bind mounts need.
pub(super) fn plan(input: &PlanInput<'_>) -> Result<(ContainerPlan, Vec<SharePlan>), PlanError> {
    let spec = input.spec;
    let linux = spec.linux().as_ref();
    let (mounts, shares) = mounts::plan(input).map_err(PlanError::Mount)?;
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let no_process = || PlanError::Process(process::ProcessError::NoArguments);
    let first = spec.process().as_ref().ok_or_else(no_process)?;
    let container = ContainerPlan {
        pod: None,
        rootfs_share: 0,
        rootfs_readonly: spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
        rootfs_propagation: rootfs_propagation(spec)?,
        hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
        domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
        mounts,
        devices: devices::nodes(spec),
        symlinks: devices::links(spec),
        masked_paths: linux.and_then(|linux| linux.masked_paths().clone()).unwrap_or_default(),
        readonly_paths: linux.and_then(|linux| linux.readonly_paths().clone()).unwrap_or_default(),
        sysctl: sysctl(spec)?,
        cgroup: cgroup::plan(resources).map_err(PlanError::Cgroup)?,
        user_namespace: user_namespace(spec),
        time_offsets: time_offsets(spec),
        start_hooks: start_hooks(spec),
        hook_state: hook_state(input),
        process: process::plan(first, linux, input.stdio).map_err(PlanError::Process)?,
    };
    Ok((container, shares))
}

fn rootfs_propagation(spec: &Spec) -> Result<u64, PlanError> {
    let linux = spec.linux().as_ref();
    match linux.and_then(|linux| linux.rootfs_propagation().as_deref()) {
        // The agent begins with private mounts; what a mount itself says must stay.
        None | Some("") => Ok(0),
        Some(name) => mount_options::propagation_flags(name)
            .ok_or_else(|| PlanError::RootfsPropagation(name.to_owned())),
    }
}

/// Keys may be written with slashes. All are the guest kernel's own, so that none is refused.
fn sysctl(spec: &Spec) -> Result<BTreeMap<String, String>, PlanError> {
    let given = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    let mut parameters = BTreeMap::new();
    for (key, value) in given.into_iter().flatten() {
        let dotted = key.replace('/', ".");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let parts_named = dotted.split('.').all(|part| !part.is_empty());
        if !parts_named || !dotted.bytes().all(plain) {
            return Err(PlanError::Sysctl(key.clone()));
        }
        parameters.insert(dotted, value.clone());
    }
    Ok(parameters)
}

/// The files of the container keep the host's owners: the numbers outside are the host's.
fn user_namespace(spec: &Spec) -> Option<UserNamespacePlan> {
    let linux = spec.linux().as_ref()?;
    let mut namespaces = linux.namespaces().iter().flatten();
    namespaces.find(|namespace| namespace.typ() == LinuxNamespaceType::User)?;
    Some(UserNamespacePlan {
        uids: linux.uid_mappings().iter().flatten().map(mounts::id_mapping).collect(),
        gids: linux.gid_mappings().iter().flatten().map(mounts::id_mapping).collect(),
    })
}

/// Offsets of a namespace that is not asked for are a mistake that the rules have found.
fn time_offsets(spec: &Spec) -> Option<Vec<TimeOffsetPlan>> {
    let linux = spec.linux().as_ref()?;
    let mut namespaces = linux.namespaces().iter().flatten();
    namespaces.find(|namespace| namespace.typ() == LinuxNamespaceType::Time)?;
    let offsets: BTreeMap<_, _> = linux.time_offsets().iter().flatten().collect();
    let plan = |(clock, offset): (&String, &LinuxTimeOffset)| TimeOffsetPlan {
        clock: clock.clone(),
        seconds: offset.secs().unwrap_or_default(),
        nanoseconds: offset.nanosecs().unwrap_or_default(),
    };
    Some(offsets.into_iter().map(plan).collect())
}

fn start_hooks(spec: &Spec) -> Vec<HookPlan> {
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_deref());
    hooks.unwrap_or_default().iter().map(hook).collect()
}

/// A hook that names no environment has that of the process, as with runc: it runs where that does.
fn hook(hook: &Hook) -> HookPlan {
    HookPlan {
        path: hook.path().to_string_lossy().into_owned(),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone(),
        timeout_s: hook.timeout().and_then(|seconds| u32::try_from(seconds).ok()),
    }
}

/// The state as hooks inside the container get it. The pid is the one that they can see.
fn hook_state(input: &PlanInput<'_>) -> String {
    let annotations: BTreeMap<_, _> = input.spec.annotations().iter().flatten().collect();
    serde_json::json!({
        "ociVersion": input.spec.version(),
        "id": input.id,
        "status": "created",
        "pid": 1,
        "bundle": input.bundle,
        "annotations": annotations,
    })
    .to_string()
}
