//! A container that joins the machine of its pod's sandbox.
//!
//! ```text
//!  join:   plan ─▶ a place in the sandbox's file server ─▶ agent makes the container ─▶ proxy
//!            │            │                                   │
//!            └────────────┴── any failure: container ended, place cleared ─┘
//!  leave:  proxy ended ─▶ container ended ─▶ place cleared
//! ```
//!
//! Its process on the host is a proxy ([`super::proxy`]): it ends with the container's first
//! process and with its code, and when it is killed, so is the container. The other verbs reach the
//! guest by a link to the sandbox's socket.

mod place;
mod record;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_protocol::agent::SignalRequest;
use cofferdam_protocol::bounds::MAX_POD_PLACES;
use cofferdam_protocol::control::Attach;
use cofferdam_protocol::id::{ContainerId, ProcessToken};
use cofferdam_protocol::plan::PodPlan;
use cofferdam_protocol::vm_config::PodPlace;
use nix::libc;
use oci_spec::runtime::LinuxResources;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::agent::{Agent, AgentError, REQUEST_TIMEOUT};
use super::control::{self, ControlError, StreamsConnection};
use super::disks::{self, DiskError, OpenDisks};
use super::exec::{GuestProcess, random_token};
use super::machine::{self, MachineError};
use super::proxy::{self, ProxyError};
use super::record::Record;
use super::rpc::CallError;
use super::shares::{OpenShare, ShareError, Sources};
use super::stdio::{HostStreams, StdioError};
use crate::config::Config;
use crate::host::log::with_causes;
use crate::host::process::ProcessIdentity;
use crate::host::user::User;
use crate::plan::disks::settle;
use crate::plan::pod::{Demand, Joined, PodTooLarge};
use crate::plan::{MachineSize, PlanError, PlanInput, RunningVm, SandboxPlan, host_limits};
use crate::sandbox::request::{CreateRequest, Created, PodMember, SandboxRef, StartFailureKind};

pub use place::PlaceError;
pub(super) use record::Membership;

use place::ServerMounts;
use record::Members;

/// In `state`: whose machine it is in.
pub const POD_NOTE: &str = "dev.cofferdam.pod.sandbox";

/// In the sandbox's state folder: held by whoever joins or leaves.
const LOCK: &str = "pod.lock";
/// Longer than any of them takes.
const LOCK_DEADLINE: Duration = Duration::from_secs(60);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// How long a container has to end in its guest once it was killed.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a container did not join a pod.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// `--preserve-fds`.
    #[error(
        "--preserve-fds is not possible in a microVM: a guest cannot use the host's descriptors"
    )]
    PreserveFds,
    /// The caller.
    #[error("Only root can have a pod of several containers in a microVM")]
    Ordinary,
    /// `restore`.
    #[error("A container cannot be restored into a pod: restore it into a microVM of its own")]
    Restore,
    /// What a machine that is there already cannot be given.
    #[error(
        "{0} is not possible for a container that joins a pod: the pod's machine has its place already"
    )]
    Placed(&'static str),
    /// The sandbox.
    #[error("The pod's sandbox {0} does not run")]
    Ended(ContainerId),
    /// What the guest is to see of the host.
    #[error("The container's files cannot be given to a guest")]
    Share(#[from] ShareError),
    /// What it is to be connected to.
    #[error("The container's streams cannot be prepared")]
    Stdio(#[from] StdioError),
    /// The configuration.
    #[error("The configuration cannot be run in a microVM")]
    Plan(#[from] PlanError),
    /// Somebody holds it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file in the state folder.
    #[error("The record of the container's pod cannot be written or read")]
    Record(#[source] io::Error),
    /// All of them.
    #[error("The pod has {MAX_POD_PLACES} containers beside its sandbox already")]
    Full,
    /// Its limits.
    #[error(transparent)]
    TooLarge(#[from] PodTooLarge),
    /// The machine does not grow.
    #[error("The pod's machine cannot be resized")]
    Resize(#[from] MachineError),
    /// How soon the kernel ends the machine.
    #[error("The monitor of the pod's microVM cannot be given another oomScoreAdj")]
    OomScore(#[source] io::Error),
    /// Its files.
    #[error("The container's files cannot be given to the pod's machine")]
    Place(#[from] PlaceError),
    /// The sandbox's monitor.
    #[error("The pod's microVM cannot be reached")]
    Control(#[from] ControlError),
    /// Its disks.
    #[error("The container cannot have its block devices")]
    Disks(#[from] DiskError),
    /// The agent.
    #[error("The container cannot be made in the guest")]
    Agent(#[from] AgentError),
    /// No name for its process.
    #[error("The kernel gives no random numbers")]
    Random(#[source] io::Error),
    /// Nobody would stand for it.
    #[error("The container's proxy cannot be started")]
    Proxy(#[from] ProxyError),
    /// The proxy, once it is there.
    #[error("The container's proxy cannot be found")]
    Process(#[source] io::Error),
}

impl JoinError {
    /// Whether the program itself was at fault.
    #[must_use]
    pub const fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::Agent(error) => error.start_failure(),
            _ => None,
        }
    }
}

/// Why something of a member is left in its pod, or its limits are as they were.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// Somebody holds it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file in a state folder.
    #[error("The record of the container's pod cannot be written or read")]
    Record(#[source] io::Error),
    /// Its files.
    #[error("The container's files cannot be taken from the pod's machine")]
    Place(#[from] PlaceError),
    /// Its disks.
    #[error("The container's block devices cannot be taken from the pod's machine")]
    Disks(#[from] DiskError),
}

/// Why a pod is not the caller's alone.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody holds it.
    #[error("Other containers of the pod are being made or deleted for too long")]
    Busy,
    /// The lock's file.
    #[error("The pod cannot be locked")]
    File(#[source] io::Error),
}

/// Makes a container in the machine of its pod's sandbox.
///
/// # Errors
/// What failed; nothing is left behind then but files in the state folder.
pub(super) fn join(
    request: CreateRequest,
    member: PodMember,
    config: &Config,
) -> Result<Created, JoinError> {
    let timeout = Duration::from_millis(config.microvm.request_timeout_ms);
    let joining = Joining::prepare(request, member, config)?;
    let lock = lock(&joining.sandbox.state_folder)?;
    let entry = joining.enter()?;
    let container = joining.make_container(entry.place, timeout)?;
    let streams = joining.attach(timeout)?;
    let created = joining.stand_for(container, streams)?;
    entry.release();
    drop(lock);
    Ok(created)
}

/// Ends what is left of a member, and gives its place back. Idempotent.
///
/// # Errors
/// When something is left.
pub(super) fn leave(sandbox: &SandboxRef, membership: &Membership) -> Result<(), PodError> {
    if membership.monitor.is_alive() {
        end_in_guest(&sandbox.id, membership.process, &sandbox.state_folder);
        let lock = lock(&membership.sandbox).map_err(PodError::from);
        let given_back = lock.and_then(|_lock| give_back(&sandbox.id, membership));
        // An engine takes all of a pod away at once: a machine that has ended meanwhile has taken
        // everything with it.
        if membership.monitor.is_alive() {
            given_back?;
        }
    }
    control::remove(&sandbox.state_folder.join(control::SOCKET)).map_err(PodError::Record)
}

/// A pod whose member gets other limits, and nobody joins or leaves it meanwhile.
pub(super) struct Changing {
    sandbox: PathBuf,
    members: Members,
    _lock: File,
}

impl Changing {
    /// Puts the member's limits in place of those that it had.
    pub(super) fn begin(
        id: &ContainerId,
        membership: &Membership,
        limits: &LinuxResources,
    ) -> Result<Self, PodError> {
        let sandbox = membership.sandbox.clone();
        let _lock = lock(&sandbox)?;
        let mut members = Members::find(&sandbox).map_err(PodError::Record)?;
        members.change(id, limits);
        Ok(Self { sandbox, members, _lock })
    }

    /// Where the machine's record is.
    pub(super) fn sandbox(&self) -> &Path {
        &self.sandbox
    }

    /// The size that the machine needs then.
    pub(super) fn needed(&self, vm: &RunningVm) -> Result<MachineSize, PodTooLarge> {
        self.members.demand().size_of(vm)
    }

    /// They hold.
    pub(super) fn finish(self) -> io::Result<()> {
        self.members.save(&self.sandbox)
    }
}

/// Whether a container is a member of a pod, or others are members of its.
pub(super) fn is_shared(state_folder: &Path) -> io::Result<bool> {
    Ok(Membership::find(state_folder)?.is_some() || !Members::find(state_folder)?.is_empty())
}

/// Everything that can fail without anything having been made.
struct Joining {
    id: ContainerId,
    state_folder: PathBuf,
    sandbox: SandboxRef,
    joined: Joined,
    plan: SandboxPlan,
    shares: Vec<OpenShare>,
    disks: OpenDisks,
    streams: HostStreams,
    membership: Membership,
}

impl Joining {
    fn prepare(
        request: CreateRequest,
        member: PodMember,
        config: &Config,
    ) -> Result<Self, JoinError> {
        refuse(&request)?;
        let PodMember { sandbox, joined } = member;
        let monitor = sandbox.process.filter(|process| process.is_alive());
        let monitor = monitor.ok_or_else(|| JoinError::Ended(sandbox.id.clone()))?;
        let process = random_token().map_err(JoinError::Random)?;
        let membership = Membership { sandbox: sandbox.state_folder.clone(), monitor, process };
        let CreateRequest { id, bundle, rootfs, state_folder, stdio, .. } = request;
        let sources = Sources::open(&joined.spec, &bundle, &rootfs)?;
        let streams = HostStreams::prepare(stdio)?;
        let plan = SandboxPlan::new(&PlanInput {
            id: &id,
            bundle: &bundle,
            rootfs: &rootfs,
            spec: &joined.spec,
            stdio: streams.plan(),
            defaults: machine::defaults(&config.microvm),
            facts: &sources.facts,
        });
        let plan = plan?;
        refuse_placed(&joined, &plan)?;
        let shares = sources.share(&plan.shares)?;
        let disks = OpenDisks::open(&joined.spec)?;
        Ok(Self { id, state_folder, sandbox, joined, plan, shares, disks, streams, membership })
    }

    /// Gives the machine the container's files and the size that it needs. Each step is written
    /// down before it is taken, so that `delete` finds what a killed create has left.
    fn enter(&self) -> Result<Entry<'_>, JoinError> {
        self.membership.save(&self.state_folder).map_err(JoinError::Record)?;
        let folder = &self.sandbox.state_folder;
        let socket = self.state_folder.join(control::SOCKET);
        symlink(folder.join(control::SOCKET), socket).map_err(JoinError::Record)?;
        let mut members = Members::find(folder).map_err(JoinError::Record)?;
        let score = self.plan.container.process.oom_score_adj;
        let place = members.add(&self.id, Demand::of(&self.joined.spec), score);
        let place = place.ok_or(JoinError::Full)?;
        let mut record = Record::load(folder).map_err(JoinError::Record)?;
        // At least as large as it began.
        let size = members.demand().size_of(&record.vm)?;
        members.save(folder).map_err(JoinError::Record)?;
        let entry = Entry { joining: self, place, released: false };
        set_oom_score(&self.membership, &members, &record).map_err(JoinError::OomScore)?;
        machine::resize(folder, &mut record, size)?;
        ServerMounts::of(self.membership.monitor)?.fill(place, &self.shares)?;
        Ok(entry)
    }

    fn make_container(
        &self,
        place: PodPlace,
        timeout: Duration,
    ) -> Result<GuestContainer<'_>, JoinError> {
        let Joined { ipc, uts, pid, .. } = self.joined;
        let mut plan = self.plan.container.clone();
        let disks = self.disks.give(&self.id, &self.sandbox.state_folder)?;
        settle(&mut plan, &self.joined.spec, &disks).map_err(DiskError::Rules)?;
        plan.pod = Some(PodPlan { sandbox: self.sandbox.id.clone(), place, ipc, uts, pid });
        let connection = control::connect_agent(&self.state_folder, timeout);
        let mut agent = Agent::new(connection?);
        let container = GuestContainer { joining: self, released: false };
        let made = agent.create_container(&self.id, self.membership.process, &plan, timeout);
        Ok(made.map(|()| container)?)
    }

    fn attach(&self, timeout: Duration) -> Result<StreamsConnection, JoinError> {
        let (streams, descriptors) = self.streams.attachment(false);
        let process = self.membership.process;
        let attach = Attach { process, streams, ends_sandbox: false };
        let folder = &self.state_folder;
        Ok(StreamsConnection::attach(folder, attach, &descriptors, timeout)?)
    }

    /// Forks the process that stands for the container on the host.
    fn stand_for(
        &self,
        container: GuestContainer<'_>,
        streams: StreamsConnection,
    ) -> Result<Created, JoinError> {
        let connection = control::connect_agent(&self.state_folder, REQUEST_TIMEOUT);
        let mut agent = Agent::new(connection?);
        let token = self.membership.process;
        let end = agent.ask_end(token, true)?;
        let process = GuestProcess { container: self.id.clone(), token, agent, end, streams };
        let (terminal, slave) = self.streams.clone_terminal()?.unzip();
        let pid = proxy::spawn(process, slave)?;
        let process = ProcessIdentity::of(pid).map_err(JoinError::Process)?;
        container.release();
        let note = (POD_NOTE.to_owned(), self.sandbox.id.to_string());
        Ok(Created { process, terminal, notes: vec![note] })
    }
}

fn refuse(request: &CreateRequest) -> Result<(), JoinError> {
    if request.preserve_fds > 0 {
        return Err(JoinError::PreserveFds);
    }
    if User::current().is_ordinary() {
        return Err(JoinError::Ordinary);
    }
    if request.restore.is_some() {
        return Err(JoinError::Restore);
    }
    Ok(())
}

/// What is the machine's and not the guest's cannot be another for one of its containers.
fn refuse_placed(joined: &Joined, plan: &SandboxPlan) -> Result<(), JoinError> {
    let linux = joined.spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    let says = |list: Option<&str>| list.is_some_and(|list| !list.is_empty());
    if says(cpu.and_then(|cpu| cpu.cpus().as_deref())) {
        return Err(JoinError::Placed("linux.resources.cpu.cpus"));
    }
    if says(cpu.and_then(|cpu| cpu.mems().as_deref())) {
        return Err(JoinError::Placed("linux.resources.cpu.mems"));
    }
    if let Some(field) = resources.and_then(host_limits::disk_field) {
        return Err(JoinError::Placed(field));
    }
    if plan.shape.memory_policy.is_some() {
        return Err(JoinError::Placed("linux.memoryPolicy"));
    }
    Ok(())
}

/// Has the host's kernel end the machine as soon as its members say.
fn set_oom_score(pod: &Membership, members: &Members, machine: &Record) -> io::Result<()> {
    let score = members.oom_score_adj(machine.oom_score_adj);
    score.map_or(Ok(()), |score| pod.monitor.set_oom_score_adj(score))
}

/// A member's entry in the pod, taken back when dropped before its release.
struct Entry<'a> {
    joining: &'a Joining,
    place: PodPlace,
    released: bool,
}

impl Entry<'_> {
    fn release(mut self) {
        self.released = true;
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if !self.released
            && let Err(error) = give_back(&self.joining.id, &self.joining.membership)
        {
            tracing::warn!("{}", with_causes(&error));
        }
    }
}

/// Takes a member's files away and lets the machine be as small as the others need it. Whoever asks
/// holds the pod's lock.
fn give_back(id: &ContainerId, membership: &Membership) -> Result<(), PodError> {
    let folder = &membership.sandbox;
    let mut members = Members::find(folder).map_err(PodError::Record)?;
    let Some(member) = members.get(id) else { return Ok(()) };
    disks::take_back(id, folder)?;
    ServerMounts::of(membership.monitor)?.clear(member.place)?;
    members.remove(id);
    members.save(folder).map_err(PodError::Record)?;
    let mut record = Record::load(folder).map_err(PodError::Record)?;
    if let Err(error) = set_oom_score(membership, &members, &record) {
        tracing::warn!("The monitor of the pod's microVM keeps its OOM score: {error}");
    }
    // It had room for more than these.
    let size = members.demand().size_of(&record.vm).unwrap_or(record.vm.size);
    if let Err(error) = machine::resize(folder, &mut record, size) {
        // What the guest keeps is in the record; nothing of the container's is left.
        tracing::warn!("{}", with_causes(&error));
    }
    Ok(())
}

/// A container in the guest, ended when dropped before its release.
struct GuestContainer<'a> {
    joining: &'a Joining,
    released: bool,
}

impl GuestContainer<'_> {
    fn release(mut self) {
        self.released = true;
    }
}

impl Drop for GuestContainer<'_> {
    fn drop(&mut self) {
        if !self.released {
            let Joining { id, membership, state_folder, .. } = self.joining;
            end_in_guest(id, membership.process, state_folder);
        }
    }
}

/// Kills a member in its guest and waits for its end. A guest that does not answer keeps the files
/// that it has open, and nothing else.
fn end_in_guest(id: &ContainerId, process: ProcessToken, state_folder: &Path) {
    let deadline = Instant::now() + LEAVE_TIMEOUT;
    let end = || -> Result<(), AgentError> {
        let Ok(connection) = control::connect_agent(state_folder, LEAVE_TIMEOUT) else {
            return Ok(());
        };
        let mut agent = Agent::new(connection);
        let request = SignalRequest {
            container_id: id.to_string(),
            process: process.0,
            signal: libc::SIGKILL.cast_unsigned(),
            all: true,
            ..Default::default()
        };
        agent.signal(&request, LEAVE_TIMEOUT)?;
        let pending = agent.ask_end(process, false)?;
        agent.end_before(pending, deadline).map(drop)
    };
    match end() {
        // It was never made, or is forgotten.
        Ok(()) | Err(AgentError::Call(CallError::Refused { .. })) => {}
        Err(error) => tracing::warn!("{}", with_causes(&error)),
    }
}

/// Waits until nobody else joins or leaves; given back when dropped.
fn lock(sandbox: &Path) -> Result<File, LockError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    let file = options.open(sandbox.join(LOCK)).map_err(LockError::File)?;
    let deadline = Instant::now() + LOCK_DEADLINE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(LOCK_POLL),
            Err(Errno::WOULDBLOCK) => return Err(LockError::Busy),
            Err(errno) => return Err(LockError::File(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A member of a pod whose monitor is only a process that waits.
    fn member(folder: &Path, monitor: ProcessIdentity) -> (SandboxRef, Membership) {
        let [pod, state_folder] = ["pod", "member"].map(|name| folder.join(name));
        std::fs::create_dir(&pod).unwrap();
        std::fs::create_dir(&state_folder).unwrap();
        let id: ContainerId = "member".parse().unwrap();
        let mut members = Members::default();
        members.add(&id, Demand::default(), None).unwrap();
        members.save(&pod).unwrap();
        let sandbox = SandboxRef { id, state_folder, bundle: "/".into(), process: None };
        (sandbox, Membership { sandbox: pod, monitor, process: ProcessToken(8) })
    }

    #[test]
    fn a_member_whose_machine_ends_while_it_leaves_has_left() {
        let folder = tempfile::tempdir().unwrap();
        let mut monitor = Command::new("sleep").arg("100").spawn().unwrap();
        let identity = ProcessIdentity::of(monitor.id().cast_signed()).unwrap();
        let (sandbox, membership) = member(folder.path(), identity);
        // A process that has no file server cannot give anything back.
        assert!(matches!(leave(&sandbox, &membership), Err(PodError::Place(_))));
        let held = lock(&membership.sandbox).unwrap();
        thread::scope(|scope| {
            let leaving = scope.spawn(|| leave(&sandbox, &membership));
            // It has seen the monitor alive, and waits for the lock.
            thread::sleep(Duration::from_millis(200));
            monitor.kill().unwrap();
            monitor.wait().unwrap();
            drop(held);
            leaving.join().unwrap().unwrap();
        });
    }
}
