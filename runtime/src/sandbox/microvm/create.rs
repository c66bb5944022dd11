//! `create`: from a validated request to a guest with a container in it, not started.
//!
//! A list of phases; what each made is undone by its owner's `Drop` when a later one fails. Only
//! the socket's name in the state folder needs more.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cofferdam_protocol::bounds::{MAX_DISKS, MAX_POD_PLACES, SPARE_DISKS};
use cofferdam_protocol::control::Attach;
use cofferdam_protocol::id::{ContainerId, ProcessToken};
use oci_spec::runtime::Spec;

use super::agent::{Agent, AgentError};
use super::checkpoint::{self, CheckpointError};
use super::control::{self, ControlError, ControlSocket, StreamsConnection};
use super::disks::{DiskError, OpenDisks};
use super::group::{GroupError, GroupRef, SandboxGroup};
use super::image::Image;
use super::kvm::{self, KvmError};
use super::machine;
use super::monitor::{Monitor, MonitorError, MonitorSetup};
use super::network::{self, Connected, Guest, NetworkError};
use super::opener::{self, OpenerError};
use super::pod::{self, JoinError};
use super::record::{Origin, Record};
use super::shares::{OpenShare, ShareError, Sources};
use super::stdio::{HostStreams, StdioError};
use crate::artifacts::{ArtifactError, Artifacts};
use crate::config::Config;
use crate::host::log::with_causes;
use crate::host::network_namespace::NetworkNamespace;
use crate::host::process::{ProcessIdentity, own_oom_score_adj};
use crate::host::signals::Interrupts;
use crate::host::subordinate::Subordinate;
use crate::host::user::User;
use crate::plan::disks::{GivenDisk, settle};
use crate::plan::own_users::{self, UserMaps};
use crate::plan::{PlanError, PlanInput, RunningVm, SandboxPlan};
use crate::sandbox::request::{CreateRequest, Created, ImageRequest, PodPart, StartFailureKind};

/// As much as the guest kernel's generator is seeded with.
const ENTROPY_BYTES: usize = 64;

/// Why a container was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// `--preserve-fds`.
    #[error(
        "--preserve-fds is not possible in a microVM: a guest cannot use the host's descriptors"
    )]
    PreserveFds,
    /// What the guest is to see of the host.
    #[error("The container's files cannot be given to a guest")]
    Share(#[source] ShareError),
    /// The same, for an ordinary user.
    #[error("The container's files cannot be given to a guest")]
    Opener(#[source] OpenerError),
    /// What it is to be connected to.
    #[error("The container's streams cannot be prepared")]
    Stdio(#[source] StdioError),
    /// The configuration.
    #[error("The configuration cannot be run in a microVM")]
    Plan(#[source] PlanError),
    /// Guest kernel, initramfs or monitor.
    #[error("The files that a microVM is made from are not right")]
    Artifacts(#[source] ArtifactError),
    /// KVM.
    #[error("KVM cannot be used")]
    Kvm(#[source] KvmError),
    /// The monitor, or the guest's boot.
    #[error("The microVM did not start")]
    Monitor(#[source] MonitorError),
    /// The monitor, once it is there.
    #[error("The monitor's process cannot be found")]
    Process(#[source] io::Error),
    /// The monitor's socket.
    #[error("The microVM cannot be reached")]
    Control(#[source] ControlError),
    /// The sandbox's control group.
    #[error("The microVM cannot be limited on the host")]
    Group(#[source] GroupError),
    /// A file in the state folder.
    #[error("The record of the microVM cannot be written")]
    Record(#[source] io::Error),
    /// The image.
    #[error("The container cannot be restored")]
    Restore(#[source] CheckpointError),
    /// New randomness for a guest that was restored.
    #[error("The host gives no randomness")]
    Entropy(#[source] io::Error),
    /// The network.
    #[error("The container cannot be connected")]
    Network(#[from] NetworkError),
    /// The disks.
    #[error("The container cannot have its block devices")]
    Disks(#[from] DiskError),
    /// The pod.
    #[error("The container cannot join its pod")]
    Pod(#[from] JoinError),
    /// The agent.
    #[error("The container cannot be made in the guest")]
    Agent(#[source] AgentError),
}

impl CreateError {
    /// Whether the program itself was at fault.
    #[must_use]
    pub const fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::Agent(error) => error.start_failure(),
            Self::Pod(error) => error.start_failure(),
            _ => None,
        }
    }
}

/// Makes a container in a microVM of its own.
///
/// # Errors
/// What failed, in which phase; nothing is left behind then but files in the state folder.
pub fn create(mut request: CreateRequest, config: &Config) -> Result<Created, CreateError> {
    let part = request.pod.take();
    if let Some(PodPart::Member(member)) = part {
        return Ok(pod::join(request, *member, config)?);
    }
    let pod_places = if part.is_some() { MAX_POD_PLACES } else { 0 };
    let timeout = Duration::from_millis(config.microvm.request_timeout_ms);
    let mut group = SandboxGroup::prepare(&request).map_err(CreateError::Group)?;
    let prepared = Prepared { pod_places, ..Prepared::new(request, config)? };
    // Before anything is made: a create that is killed from here on leaves to `delete` what it
    // needs to find the rest.
    let planned = group.folders().to_vec();
    prepared.record(config, group.group())?;
    group.create(&prepared.plan.shape).map_err(CreateError::Group)?;
    let (monitor, socket) = prepared.boot(config, &mut group)?;
    let process = monitor.identity().map_err(CreateError::Process)?;
    if group.folders() != planned {
        // systemd has made it, or nobody could: `update` and `delete` go by what there is.
        prepared.record(config, group.group())?;
    }
    let network = prepared.connect(process)?;
    prepared.forward(process);
    if prepared.image.is_some() {
        prepared.reawaken(timeout)?;
    } else {
        let disks = prepared.disks.give(&prepared.id, &prepared.state_folder)?;
        prepared.make_container(&disks, timeout)?;
    }
    prepared.attach(timeout)?;
    group.limit_workload(&prepared.spec).map_err(CreateError::Group)?;
    let described = group.description();
    group.release();
    network.release();
    socket.release();
    monitor.release();
    Ok(prepared.into_created(process, described))
}

/// The monitor's users, where the caller is an ordinary one.
fn own_users(spec: &Spec) -> Option<UserMaps> {
    let user = User::current();
    user.is_ordinary().then(|| UserMaps::plan(spec, user, Subordinate::current()))
}

fn open_image(request: &ImageRequest) -> Result<Image, CheckpointError> {
    checkpoint::refuse_flags(request)?;
    Ok(Image::open(&request.image)?)
}

/// An image must be of the machine that would be made here.
fn check_image(
    image: &Image,
    plan: &SandboxPlan,
    artifacts: &Artifacts,
    origin: &Origin,
) -> Result<(), CheckpointError> {
    let monitor = checkpoint::digest_of(&artifacts.monitor)?;
    image.manifest.check(origin, &monitor, &plan.shape, &checkpoint::comparable(plan)?)?;
    Ok(())
}

/// Everything that can fail without a process having been started.
struct Prepared {
    id: ContainerId,
    spec: Spec,
    state_folder: PathBuf,
    streams: HostStreams,
    plan: SandboxPlan,
    artifacts: Artifacts,
    kvm: File,
    shares: Vec<OpenShare>,
    /// The container's network namespace, if it is there already, and how many interfaces it may
    /// come to have.
    network: Option<NetworkNamespace>,
    network_slots: u8,
    disks: OpenDisks,
    /// For how many containers that join it.
    pod_places: u8,
    own_users: Option<UserMaps>,
    origin: Origin,
    /// What the container goes on from, if it does not begin.
    image: Option<Image>,
    interrupts: Interrupts,
}

impl Prepared {
    fn new(request: CreateRequest, config: &Config) -> Result<Self, CreateError> {
        if request.preserve_fds > 0 {
            return Err(CreateError::PreserveFds);
        }
        let CreateRequest {
            id,
            bundle,
            rootfs,
            spec,
            state_folder,
            stdio,
            interrupts,
            restore,
            ..
        } = request;
        let sources = Sources::open(&spec, &bundle, &rootfs).map_err(CreateError::Share)?;
        let image = restore.as_ref().map(open_image).transpose().map_err(CreateError::Restore)?;
        let saved = image.as_ref().and_then(|image| image.manifest.origin.stdio);
        let streams = match saved {
            None => HostStreams::prepare(stdio),
            Some(saved) => HostStreams::prepare_again(stdio, saved),
        };
        let streams = streams.map_err(CreateError::Stdio)?;
        let own_users = own_users(&spec);
        let inside = own_users.as_ref().map(|_| own_users::inside(&spec));
        let plan = SandboxPlan::new(&PlanInput {
            id: &id,
            bundle: &bundle,
            rootfs: &rootfs,
            spec: inside.as_ref().unwrap_or(&spec),
            stdio: streams.plan(),
            defaults: machine::defaults(&config.microvm),
            facts: &sources.facts,
        });
        let mut plan = plan.map_err(CreateError::Plan)?;
        let artifacts = Artifacts::open(&config.microvm).map_err(CreateError::Artifacts)?;
        let origin = Origin {
            kernel: artifacts.kernel_sha256.clone(),
            agent: artifacts.initramfs_sha256.clone(),
            stdio: Some(streams.plan()),
        };
        if let Some(image) = &image {
            check_image(image, &plan, &artifacts, &origin).map_err(CreateError::Restore)?;
            // Its memory is the image's: there is no room beside it. Its processors are too.
            plan.shape.memory_blocks_max = 0;
            plan.shape.vcpus_max = image.manifest.machine.vcpus_max;
        }
        let network = network::named(&spec)?;
        let network_slots = network::room(&spec, network.as_ref())?;
        let disks = OpenDisks::open(&spec)?;
        if image.is_some() && disks.count() > 0 {
            return Err(DiskError::Restored.into());
        }
        let kvm = kvm::open().map_err(CreateError::Kvm)?;
        let shares = match &own_users {
            Some(maps) => {
                opener::share(&sources, &plan.shares, maps).map_err(CreateError::Opener)?
            }
            None => sources.share(&plan.shares).map_err(CreateError::Share)?,
        };
        Ok(Self {
            id,
            spec,
            state_folder,
            streams,
            plan,
            artifacts,
            kvm,
            shares,
            network,
            network_slots,
            disks,
            pod_places: 0,
            own_users,
            origin,
            image,
            interrupts,
        })
    }

    /// How soon the kernel ends the container for want of memory: that of the guest ends its program,
    /// that of the host the monitor. What does not say it has the caller's.
    fn oom_score_adj(&self) -> Option<i32> {
        self.plan.container.process.oom_score_adj
    }

    /// A monitor whose guest is up, and its socket.
    fn boot(
        &self,
        config: &Config,
        group: &mut SandboxGroup,
    ) -> Result<(Monitor, ControlSocket), CreateError> {
        let socket = ControlSocket::listen(&self.state_folder).map_err(CreateError::Control)?;
        let boot_timeout = Duration::from_millis(config.microvm.boot_timeout_ms);
        let mut monitor = Monitor::spawn(MonitorSetup {
            sandbox: &self.id,
            shape: &self.plan.shape,
            artifacts: &self.artifacts,
            kvm: &self.kvm,
            control: socket.listener(),
            shares: &self.shares,
            network: self.network.as_ref(),
            network_slots: self.network_slots,
            disk_slots: self.disk_slots(),
            pod_places: self.pod_places,
            restore: self.image.as_ref(),
            boot_timeout,
            console_log: config.microvm.console_log,
            state_folder: &self.state_folder,
            own_users: self.own_users.as_ref(),
            oom_score_adj: self.oom_score_adj(),
            group,
        })
        .map_err(CreateError::Monitor)?;
        monitor.wait_ready(boot_timeout, &self.interrupts).map_err(CreateError::Monitor)?;
        Ok((monitor, socket))
    }

    /// For its own disks, and for those of containers that join it.
    fn disk_slots(&self) -> u8 {
        let spare = if self.pod_places > 0 { SPARE_DISKS } else { 0 };
        (self.disks.count() + spare).min(MAX_DISKS)
    }

    /// Gives the guest what its namespace has already, so that what is set of an interface before
    /// the program runs can be.
    fn connect(&self, process: ProcessIdentity) -> Result<Connected, CreateError> {
        if !network::is_connected(&self.spec) {
            return Ok(Connected::default());
        }
        let restored = self.image.is_some();
        let guest = Guest::of(&self.state_folder, process, restored)?;
        let Some(guest) = guest else { return Ok(Connected::default()) };
        guest.move_devices(&self.spec)?;
        // What was made before something failed goes as well.
        let followed = guest.follow();
        let connected = Connected::by(guest);
        followed?;
        Ok(connected)
    }

    /// Has ports of a pod forwarded. Where that cannot be, the pod runs without.
    fn forward(&self, process: ProcessIdentity) {
        let is_pod = self.pod_places > 0 && crate::plan::pod::forwards_ports(&self.spec);
        if !is_pod || self.network.is_none() {
            return;
        }
        if let Err(error) = network::forward(&self.state_folder, process) {
            let causes = with_causes(&error);
            tracing::warn!("The pod's ports cannot be forwarded (kubectl port-forward): {causes}");
        }
    }

    fn make_container(&self, disks: &[GivenDisk], timeout: Duration) -> Result<(), CreateError> {
        if let Some(seccomp) = &self.plan.container.process.seccomp {
            tracing::debug!("seccomp filter flags: {}", seccomp.flags);
        }
        let mut container = self.plan.container.clone();
        settle(&mut container, &self.spec, disks).map_err(DiskError::Rules)?;
        let connection = control::connect_agent(&self.state_folder, timeout);
        Agent::new(connection.map_err(CreateError::Control)?)
            .create_container(&self.id, ProcessToken::FIRST, &container, timeout)
            .map_err(CreateError::Agent)
    }

    /// The guest stands still until it is resumed: what it must know first.
    fn reawaken(&self, timeout: Duration) -> Result<(), CreateError> {
        let mut entropy = [0; ENTROPY_BYTES];
        rustix::rand::getrandom(&mut entropy, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| CreateError::Entropy(errno.into()))?;
        let connection = control::connect_agent(&self.state_folder, timeout);
        let mut agent = Agent::new(connection.map_err(CreateError::Control)?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        agent.reawaken(&self.id, now, &entropy).map_err(CreateError::Agent)
    }

    fn attach(&self, timeout: Duration) -> Result<(), CreateError> {
        let (streams, descriptors) = self.streams.attachment(true);
        let attach = Attach { process: ProcessToken::FIRST, streams, ends_sandbox: true };
        StreamsConnection::attach(&self.state_folder, attach, &descriptors, timeout)
            .map_err(CreateError::Control)?;
        Ok(())
    }

    /// For later verbs.
    fn record(&self, config: &Config, group: GroupRef<'_>) -> Result<(), CreateError> {
        let vm = RunningVm::at_birth(&self.plan.shape, config.microvm.memory_overhead_mib);
        let record = Record {
            vm,
            cgroups: group.folders.to_vec(),
            unit: group.unit.map(Path::to_owned),
            oom_score_adj: Some(self.oom_score_adj().unwrap_or_else(own_oom_score_adj)),
            origin: Some(self.origin.clone()),
        };
        record.save(&self.state_folder).map_err(CreateError::Record)
    }

    fn into_created(self, process: ProcessIdentity, group: String) -> Created {
        let shape = &self.plan.shape;
        let note = |name: &str, value: String| (format!("dev.cofferdam.{name}"), value);
        let notes = vec![
            note("guest.kernel", self.artifacts.kernel_version),
            note("vm.vcpus", shape.vcpus.to_string()),
            note("vm.memory_mib", shape.memory_mib.to_string()),
            note("vm.cgroup", group),
        ];
        Created { process, terminal: self.streams.into_terminal().map(|(master, _)| master), notes }
    }
}
