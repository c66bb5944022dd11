//! `checkpoint`: the machine is saved into an image, and ends or runs on.
//!
//! ```text
//!  image begun ─▶ monitor: agent suspends, vCPUs stop, two files written ─▶ manifest ─▶ image
//!                    │ refused                                              │
//!                    └──▶ the machine runs on, no image                     ├──▶ runs on (--leave-running)
//!                                                                           └──▶ deleted by the caller
//! ```

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use cofferdam_protocol::bounds::MAX_MEMORY_MIB;
use cofferdam_protocol::plan::{ContainerPlan, StdioPlan};
use serde_json::Value;

use super::control::{ControlError, SavedMachine};
use super::disks;
use super::image::{Draft, ImageError, Size};
use super::network::{self, NetworkError};
use super::pod;
use super::record::{Origin, Record};
use super::shares::{ShareError, Sources};
use crate::host::digest;
use crate::host::user::User;
use crate::plan::own_users;
use crate::plan::{PlanError, PlanInput, RunningVm, SandboxPlan, VmDefaults};
use crate::sandbox::request::{ImageRequest, SandboxRef};
use crate::spec::SpecError;
use crate::spec::rootfs::{self, RootfsError};

/// The monitor gives the guest 25 seconds, and then writes its memory.
const SAVE_TIMEOUT: Duration = Duration::from_secs(600);

/// Why a container was not saved, or not gone on from.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A flag that means nothing here.
    #[error("{flag} is not possible in a microVM: {reason}")]
    Flag {
        /// Its name.
        flag: &'static str,
        /// Why not, and what to do.
        reason: &'static str,
    },
    /// What `create` wrote down.
    #[error("The record of the microVM cannot be read")]
    Record(#[source] io::Error),
    /// Made before there were checkpoints.
    #[error("The container was created by a version without checkpoints: create it anew")]
    Unknown,
    /// The configuration.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The root file system.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// What the guest sees of the host.
    #[error("The container's files cannot be looked at")]
    Share(#[from] ShareError),
    /// What it is.
    #[error("The container's configuration cannot be planned")]
    Plan(#[from] PlanError),
    /// The plan is no document.
    #[error("The container's plan cannot be written")]
    Document(#[source] serde_json::Error),
    /// The monitor's own program.
    #[error("The monitor's program cannot be read")]
    Monitor(#[source] io::Error),
    /// `update` made the machine larger.
    #[error(
        "The microVM has grown by an update, and only one of the size that it began with can be \
         saved: update its memory limit and its CPU quota back first"
    )]
    Grown,
    /// Others.
    #[error("A microVM of several containers (a pod) cannot be saved")]
    Pod,
    /// The network.
    #[error(
        "A microVM with network interfaces cannot be saved: its connections would not come back. \
         Create the container in a network namespace without any"
    )]
    Interfaces,
    /// The disks.
    #[error(
        "A microVM with block devices (linux.devices) cannot be saved: what is on them would have \
         changed when it goes on"
    )]
    Disks,
    /// What is known of the network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The monitor.
    #[error("The microVM was not saved")]
    Save(#[source] ControlError),
    /// The monitor.
    #[error("The microVM was saved, and does not go on")]
    Resume(#[source] ControlError),
}

/// Flags that hold by themselves (a guest's locks, sockets and terminals are in its memory) or are
/// about what there is not. Every other one is refused.
const HARMLESS: [&str; 5] =
    ["--tcp-established", "--ext-unix-sk", "--shell-job", "--file-locks", "--manage-cgroups-mode"];

/// Flags that only CRIU could serve, each with the reason.
const IMPOSSIBLE: [(&str, &str); 9] = [
    ("--pre-dump", "a machine is saved whole; leave the flag out"),
    ("--parent-path", "a machine is saved whole; leave the flag out"),
    ("--lazy-pages", "memory is mapped from the image, and read when it is touched, as it is"),
    ("--page-server", "the image is written to a folder; give one that is elsewhere"),
    ("--status-fd", "it tells of lazy pages"),
    ("--auto-dedup", "there is no earlier image to compare with"),
    ("--empty-ns", "the container's namespaces are in the machine's memory"),
    ("--lsm-profile", "security modules of the host do not reach into a guest"),
    (
        "--lsm-mount-context",
        "security modules of the host do not reach into a guest; label the files themselves (chcon)",
    ),
];

/// For a flag that is in neither list: nothing is dropped silently.
const UNKNOWN: &str = "nothing in a machine answers to it; leave the flag out";

/// Saves a container. Without [`ImageRequest::leave_running`] it stands still afterwards, to be
/// deleted.
///
/// # Errors
/// Then it runs on, and there is no image, or that of before.
pub fn checkpoint(sandbox: &SandboxRef, request: &ImageRequest) -> Result<(), CheckpointError> {
    refuse_flags(request)?;
    if pod::is_shared(&sandbox.state_folder).map_err(CheckpointError::Record)? {
        return Err(CheckpointError::Pod);
    }
    let record = Record::load(&sandbox.state_folder).map_err(CheckpointError::Record)?;
    if record.vm.has_grown() {
        return Err(CheckpointError::Grown);
    }
    if network::is_there(&sandbox.state_folder)? {
        return Err(CheckpointError::Interfaces);
    }
    if disks::are_there(&sandbox.state_folder).map_err(CheckpointError::Record)? {
        return Err(CheckpointError::Disks);
    }
    let origin = record.origin.ok_or(CheckpointError::Unknown)?;
    let plan = plan_of(sandbox, &origin, record.vm)?;
    let pid = sandbox.process.map_or(0, |process| process.pid);
    let monitor = digest_of(format!("/proc/{pid}/exe"))?;
    let draft = Draft::begin(&request.image, record.vm.memory_mib)?;
    let saved =
        SavedMachine::save(&sandbox.state_folder, &draft.memory, &draft.state, SAVE_TIMEOUT);
    let saved = saved.map_err(CheckpointError::Save)?;
    draft.finish(origin, monitor, Size::of(&record.vm), plan)?;
    if request.leave_running {
        saved.resume().map_err(CheckpointError::Resume)
    } else {
        // To hang up would let it run on: it ends first, with its monitor.
        saved.abandon();
        Ok(())
    }
}

/// Names the first flag that cannot be honoured.
pub(super) fn refuse_flags(request: &ImageRequest) -> Result<(), CheckpointError> {
    let mut given = request.flags.iter().map(|(flag, _)| *flag);
    let Some(flag) = given.find(|flag| !HARMLESS.contains(flag)) else { return Ok(()) };
    let known = IMPOSSIBLE.into_iter().find(|(impossible, _)| *impossible == flag);
    Err(CheckpointError::Flag { flag, reason: known.map_or(UNKNOWN, |(_, reason)| reason) })
}

/// The monitor's program, by its SHA-256.
pub(super) fn digest_of(monitor: impl AsRef<Path>) -> Result<String, CheckpointError> {
    let read = File::open(monitor).and_then(|mut program| digest::sha256(&mut program));
    read.map_err(CheckpointError::Monitor)
}

/// The plan by which the container was made, from the copy of its configuration.
fn plan_of(sandbox: &SandboxRef, origin: &Origin, vm: RunningVm) -> Result<Value, CheckpointError> {
    let spec = sandbox.spec()?;
    let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
    let rootfs = rootfs::resolve(&sandbox.bundle, &root)?;
    let sources = Sources::open(&spec, &sandbox.bundle, &rootfs)?;
    let inside = User::current().is_ordinary().then(|| own_users::inside(&spec));
    let plan = SandboxPlan::new(&PlanInput {
        id: &sandbox.id,
        bundle: &sandbox.bundle,
        rootfs: &rootfs,
        spec: inside.as_ref().unwrap_or(&spec),
        stdio: origin.stdio.ok_or(CheckpointError::Unknown)?,
        defaults: VmDefaults {
            vcpus: vm.vcpus,
            memory_mib: vm.memory_mib,
            overhead_mib: vm.overhead_mib,
            max_vcpus: vm.vcpus_max,
            max_memory_mib: 0,
            announced_vcpus_max: vm.vcpus,
            // It was announced, and this host had it.
            announced_memory_max_mib: MAX_MEMORY_MIB,
        },
        facts: &sources.facts,
    })?;
    comparable(&plan)
}

/// What of a plan must be the same when the container goes on: all but its name, what hooks were
/// told, and how large its terminal was.
pub(super) fn comparable(plan: &SandboxPlan) -> Result<Value, CheckpointError> {
    let mut container: ContainerPlan = plan.container.clone();
    container.hook_state.clear();
    if let StdioPlan::Terminal { rows, columns, .. } = &mut container.process.stdio {
        (*rows, *columns) = (0, 0);
    }
    let shares = serde_json::to_value(&plan.shares).map_err(CheckpointError::Document)?;
    let container = serde_json::to_value(&container).map_err(CheckpointError::Document)?;
    Ok(serde_json::json!({ "shares": shares, "container": container }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_cannot_be_honoured_is_named_with_what_to_do() {
        let request = |flag| ImageRequest { flags: vec![(flag, None)], ..Default::default() };
        for (flag, reason) in IMPOSSIBLE.into_iter().chain([("--of-tomorrow", UNKNOWN)]) {
            let error = refuse_flags(&request(flag)).unwrap_err().to_string();
            assert_eq!(error, format!("{flag} is not possible in a microVM: {reason}"));
        }
        for flag in HARMLESS {
            refuse_flags(&request(flag)).unwrap();
        }
    }
}
