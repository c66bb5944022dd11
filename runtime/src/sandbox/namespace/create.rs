//! `create` and `start`, from the caller's side.
//!
//! What `create` does is recorded as it is done, and taken back when a later step fails: processes,
//! then control groups, then files.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;

use super::cgroup;
use super::confinement::Confinement;
use super::executor;
use super::helper::{Helper, Preserved};
use super::hook::HookState;
use super::host_mounts::MountOn;
use super::job::{ConstructJob, Job, RootlessJob};
use super::listener::{self, Listener};
use super::mounts;
use super::proc_mounts;
use super::process::{self, ProcessPlan, SECCOMP_FILE, SeccompFile};
use super::record::Record;
use super::report::Report;
use super::restore::{self, RestoreError};
use super::rootless::{self, Facts, Rootless};
use super::seccomp_cache;
use super::shadow;
use super::socket::{self, START_SOCKET};
use super::stage::StageJob;
use super::sys;
use super::terminal;
use super::undo::Undo;
use super::unsupported::{self, Unsupported};
use crate::cgroup::delegation::{self, GroupError};
use crate::cgroup::systemd::{ScopeError, Unit};
use crate::config::Config;
use crate::host::process::{ProcessIdentity, own_oom_score_adj};
use crate::host::stdio::ProcessStdio;
use crate::host::user::User;
use crate::plan::hardening::{self, Hardened, HostFacts};
use crate::plan::seccomp::SeccompError;
use crate::sandbox::request::{CreateRequest, Created, SandboxRef, StartFailureKind};
use crate::spec::rules;

/// A message longer than this gets no further events: what matters comes first.
const MAX_MESSAGE: usize = 1024;

/// One that does not end is left to the machine's first process.
const REAP_DEADLINE: Duration = Duration::from_secs(1);

/// Why no container was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The spec asks for what this kind of sandbox cannot do.
    #[error("Namespaces cannot serve {}", unsupported::list(.0))]
    Unsupported(Vec<Unsupported>),
    /// A mount over a part of `/proc`. The words are runc's.
    #[error("{0} cannot be mounted because it is inside /proc")]
    OverProc(PathBuf),
    /// The filter cannot be compiled.
    #[error("The seccomp profile cannot be used")]
    Seccomp(#[source] SeccompError),
    /// `restore`.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Somebody else's processes are in the container's control group. The words are runc's.
    #[error("container's cgroup is not empty: there are processes in {0}")]
    CgroupInUse(PathBuf),
    /// A frozen group would freeze whoever enters it, the runtime's own processes as well. The
    /// words are runc's.
    #[error("container's cgroup unexpectedly frozen: {0}")]
    CgroupFrozen(PathBuf),
    /// systemd.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// `--systemd-cgroup` of a user.
    #[error(
        "--systemd-cgroup takes root: an ordinary user starts the runtime itself with \
         `systemd-run --user --scope --property=Delegate=yes`"
    )]
    NoUserSystemd,
    /// The group of a container whose caller is not the machine's root.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A control group path that is not one.
    #[error("linux.cgroupsPath is {0}: it must name a group and have no .. in it")]
    CgroupPath(PathBuf),
    /// A file in the state folder could not be written, or a process not be started.
    #[error("Cannot {step}")]
    Host {
        /// In words that complete `cannot ...`.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The program is at fault.
    #[error("{message}")]
    Program {
        /// How.
        kind: StartFailureKind,
        /// In runc's words.
        message: String,
    },
    /// The process that was to make the container says why it could not.
    #[error("{0}")]
    Container(String),
}

impl CreateError {
    /// Whether the program itself is at fault.
    #[must_use]
    pub fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::Program { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}

pub(super) fn host(step: &'static str) -> impl FnOnce(io::Error) -> CreateError {
    move |source| CreateError::Host { step, source }
}

/// Makes a container whose process waits for [`start`].
///
/// # Errors
/// When the spec cannot be served, or a step failed; then nothing is left behind.
pub fn create(request: CreateRequest, config: &Config) -> Result<Created, CreateError> {
    let image = restore::open(&request)?;
    let rootless = rootless(&request)?;
    let mut missing = unsupported::unsupported(&request.spec);
    missing.extend(rootless.iter().flat_map(|rootless| refused(&request.spec, rootless)));
    if request.compat {
        missing.extract_if(.., |field| field.is_idle).for_each(|field| {
            tracing::warn!("Without effect on this host: {field}");
        });
    }
    if !missing.is_empty() {
        return Err(CreateError::Unsupported(missing));
    }
    if let Some(over) = proc_mounts::find(&request.spec, &request.rootfs) {
        return Err(CreateError::OverProc(over));
    }
    let hardened = harden(&request, config, rootless.as_ref())?;
    let (cgroups_path, planned) = match &rootless {
        Some(rootless) => (PathBuf::from("/"), rootless.groups()),
        None => planned_groups(&request, &hardened.spec)?,
    };
    check_unused(&planned)?;
    let seccomp = write_seccomp(&hardened.spec, &request.state_folder)?;
    // Before anything is made: a caller that is killed from here on leaves to `delete` what it
    // needs to find the rest.
    let maker = ProcessIdentity::of(std::process::id().cast_signed());
    let maker = Some(maker.map_err(host("find this process"))?);
    let (cgroups, filter) = (planned.clone(), seccomp.clone());
    let record = Record { cgroups, seccomp: filter, maker, ..Record::default() };
    record.save(&request.state_folder).map_err(host("write the record of the container"))?;
    let mut undo = Undo::new(&request.state_folder, planned);
    let plan = Prepared { hardened, seccomp, cgroups_path, rootless };
    let created = match image {
        None => spawn(request, plan, &mut undo)?,
        Some(image) => restore::restore(request, plan, image, &mut undo)?,
    };
    undo.disarm();
    Ok(created)
}

/// What is different for a caller who is not the machine's root.
fn rootless(request: &CreateRequest) -> Result<Option<Rootless>, CreateError> {
    let user = User::current();
    if !user.is_rootless() {
        return Ok(None);
    }
    if request.systemd_cgroup {
        return Err(CreateError::NoUserSystemd);
    }
    let said = request.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    let group = delegation::find(said.as_deref(), request.id.as_str());
    Ok(Some(Rootless::plan(&request.spec, user, group)))
}

fn refused(spec: &Spec, rootless: &Rootless) -> Vec<Unsupported> {
    let facts = Facts {
        user: User::current(),
        hard_limit: &process::hard_limit,
        oom_score_adj: own_oom_score_adj(),
        device: &device_numbers,
    };
    rootless::unsupported(spec, rootless.group.as_ref().err().copied(), facts)
}

/// The numbers of a device of the host.
fn device_numbers(path: &Path) -> Option<(i64, i64)> {
    let number = std::fs::metadata(path).ok()?.rdev();
    Some((rustix::fs::major(number).into(), rustix::fs::minor(number).into()))
}

fn harden(
    request: &CreateRequest,
    config: &Config,
    rootless: Option<&Rootless>,
) -> Result<Hardened, CreateError> {
    if request.compat {
        return Ok(Hardened::unchanged(&request.spec));
    }
    let controllers = cgroup::controllers().map_err(host("read the cgroup controllers"))?;
    let has = |name: &str| match rootless {
        Some(rootless) => rootless::offers(&rootless.group, name),
        None => controllers.iter().any(|c| c == name),
    };
    let facts = HostFacts {
        pids_controller: has("pids"),
        memory_controller: has("memory"),
        device_rules: rootless.is_none(),
    };
    Ok(hardening::harden(&request.spec, &config.namespace, facts))
}

/// What was decided before anything is made.
pub(super) struct Prepared {
    pub(super) hardened: Hardened,
    pub(super) seccomp: Option<SeccompFile>,
    pub(super) cgroups_path: PathBuf,
    rootless: Option<Rootless>,
}

/// What is known of a container before its first process is there.
pub(super) fn record(
    request: &CreateRequest,
    prepared: &Prepared,
    process: &ProcessPlan,
) -> Result<Record, CreateError> {
    let confinement = Confinement::of(&prepared.hardened.spec, process)
        .map_err(host("read the seccomp filter"))?;
    Ok(Record {
        unit: request.systemd_cgroup.then(|| prepared.cgroups_path.clone()),
        seccomp: prepared.seccomp.clone(),
        no_new_privileges: process.no_new_privileges,
        new_session_keyring: process.new_session_keyring,
        confinement: Some(confinement),
        compat: request.compat,
        ..Record::default()
    })
}

fn spawn(
    request: CreateRequest,
    prepared: Prepared,
    undo: &mut Undo,
) -> Result<Created, CreateError> {
    let size = match &request.stdio {
        ProcessStdio::Terminal { size, .. } => Some(*size),
        ProcessStdio::Inherit { .. } => None,
    };
    let sockets = size.is_some().then(terminal::socket_pair).transpose();
    let (ours, theirs) = sockets.map_err(host("make a console socket"))?.unzip();
    let process = process_plan(&request, &prepared);
    let mut record = record(&request, &prepared, &process)?;
    let Prepared { hardened, cgroups_path, rootless, .. } = prepared;
    let state_folder = request.state_folder.clone();
    let shared = rules::shares_mounts(&hardened.spec).then(|| request.rootfs.clone());
    if let Some(rootfs) = &shared {
        undo.mounts_on(MountOn::now(rootfs).map_err(host("find the root's mount"))?);
    }
    let listener = listener(&request, &hardened.spec).map_err(host("connect the listener"))?;
    let preserved = Preserved { count: request.preserve_fds, may_be_closed: request.compat };
    let mut notes = hardened.notes();
    let group = rootless.as_ref().and_then(|rootless| rootless.group.clone().ok());
    let (mut job, stdio) = job(request, &hardened.spec, process, cgroups_path, rootless.as_ref());
    let limits = group.as_ref().map(|group| make_group(group, &hardened.spec, &mut job));
    let pids_limit = limits.transpose()?.flatten();
    if let Some(rootless) = &rootless {
        rootless.without.iter().for_each(|what| tracing::warn!("Rootless, and so without {what}"));
        notes.push(rootless.note());
    }
    let job = Job::Construct(Box::new(job));
    let mut helper = Helper::spawn(job, stdio, theirs, listener, preserved)
        .map_err(host("start the process that makes the container"))?;
    tracing::debug!("nsexec container setup");
    let ready = wait_until_ready(&mut helper)?;
    // `libcontainer`'s process between the helper and the container's is this one's child, and has nothing
    // left to do. Unreaped it would be there until the machine's first process takes notice.
    super::children::reap_new(undo.children(), ready.0, Instant::now() + REAP_DEADLINE);
    tracing::debug!(pid = ready.0, "child process in init(): it waits for start");
    tracing::debug!("init: closing the pipe to signal completion");
    undo.made(&ready.1, record.unit.as_ref());
    record.cgroups = group.map_or(ready.1, |group| vec![group]);
    if let Some(limit) = pids_limit {
        cgroup::limit_processes(&record.cgroups, &limit).map_err(host("limit the processes"))?;
    }
    let identity = ProcessIdentity::of(ready.0).map_err(host("find the container's process"))?;
    record.init = Some(identity);
    let root = std::fs::metadata(format!("/proc/{}/root", ready.0));
    record.root = root.ok().map(|folder| (folder.dev(), folder.ino()));
    record.host_mount = shared
        .map(|rootfs| MountOn::root_of(ready.0, &rootfs))
        .transpose()
        .map_err(host("find the container's root"))?;
    record.save(&state_folder).map_err(host("write the record of the container"))?;
    let terminal = ours.map(|socket| terminal::receive(&socket, size.flatten()));
    Ok(Created {
        process: identity,
        terminal: terminal.transpose().map_err(host("receive the terminal"))?,
        notes,
    })
}

fn job(
    request: CreateRequest,
    spec: &Spec,
    process: ProcessPlan,
    cgroups_path: PathBuf,
    rootless: Option<&Rootless>,
) -> (ConstructJob, ProcessStdio) {
    let mut shadow = shadow::make(spec, &request.rootfs);
    if let Some(rootless) = rootless {
        rootless::strip(&mut shadow.spec, rootless.users.is_some());
        rootless::show_groups(&mut shadow.spec, cgroup::is_unified());
    }
    let pids_limit = shadow::take_pids_limit(&mut shadow.spec);
    let own_limits = shadow::take_limits(&mut shadow.spec, cgroup::is_unified());
    let mut stage =
        StageJob::take(&mut shadow.spec, request.id.as_str(), &request.rootfs, &request.bundle);
    if let Some(stage) = &mut stage {
        stage.groups_are_covered = rootless.is_some() && !cgroup::is_unified();
    }
    let job = ConstructJob {
        id: request.id.to_string(),
        bundle: request.bundle,
        rootfs: request.rootfs,
        state_folder: request.state_folder,
        finish_mounts: mounts::plan(&shadow.spec),
        masked_paths: shadow.masked_paths,
        own_limits,
        spec: shadow.spec,
        stage,
        pids_limit,
        process,
        start_hooks: shadow.start_hooks,
        cgroups_path,
        systemd_cgroup: request.systemd_cgroup,
        rootless: rootless.map(|rootless| RootlessJob {
            users: rootless.users.clone(),
            group: rootless.group.clone().ok(),
        }),
        no_pivot: request.no_pivot,
        console: None,
    };
    (job, request.stdio)
}

/// Makes the group of a container whose caller is not the machine's root. The limit of processes,
/// which is for when those that make the container are gone.
fn make_group(
    group: &Path,
    spec: &Spec,
    job: &mut ConstructJob,
) -> Result<Option<String>, CreateError> {
    let mut limited = spec.clone();
    let pids_limit = shadow::take_pids_limit(&mut limited);
    job.pids_limit = None;
    let resources = limited.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    delegation::make(group, resources).map_err(CreateError::Group)?;
    Ok(pids_limit)
}

/// To be made once: it warns of what it leaves out.
pub(super) fn process_plan(request: &CreateRequest, prepared: &Prepared) -> ProcessPlan {
    let spec = &prepared.hardened.spec;
    let process = spec.process().clone().unwrap_or_default();
    ProcessPlan {
        preserve_fds: request.preserve_fds,
        new_session_keyring: !request.no_new_keyring,
        ..ProcessPlan::from_spec(&process, spec.linux().as_ref(), prepared.seccomp.clone())
    }
}

/// Reads what the helper says until it is clear what became of the container.
fn wait_until_ready(helper: &mut Helper) -> Result<(i32, Vec<PathBuf>), CreateError> {
    let mut log = Vec::new();
    let outcome = loop {
        match helper.next_report() {
            Some(Report::Ready { pid, cgroups }) => break Ok((pid, cgroups)),
            Some(Report::Failed { kind: Some(kind), message }) => {
                break Err(CreateError::Program { kind, message });
            }
            Some(Report::Failed { kind: None, message }) => {
                break Err(CreateError::Container(with_log(message, &log)));
            }
            Some(Report::Log { message }) => log.push(message),
            None => {
                let message = "The process that makes the container was killed".to_owned();
                break Err(CreateError::Container(with_log(message, &log)));
            }
        }
    };
    helper.join().map_err(host("wait for the process that makes the container"))?;
    outcome
}

/// The errors of `libcontainer` leave out their causes; the events on the way have them, the first
/// what was being done and a later one why it failed.
fn with_log(message: String, log: &[String]) -> String {
    let mut text = message;
    for event in log {
        if text.len() < MAX_MESSAGE && !text.contains(event.as_str()) {
            text.push_str("; ");
            text.push_str(event);
        }
    }
    text
}

fn listener(request: &CreateRequest, spec: &Spec) -> io::Result<Option<(Listener, OwnedFd)>> {
    let profile = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    let Some(profile) = profile.filter(|profile| listener::is_used(profile)) else {
        return Ok(None);
    };
    let state = HookState {
        oci_version: spec.version().clone(),
        id: request.id.to_string(),
        status: "creating".to_owned(),
        pid: 0,
        bundle: request.bundle.clone(),
        folder: None,
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
    };
    Listener::open(profile, state).map(Some)
}

fn write_seccomp(spec: &Spec, state_folder: &Path) -> Result<Option<SeccompFile>, CreateError> {
    let Some(profile) = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()) else {
        return Ok(None);
    };
    let mut compiled = seccomp_cache::compile(profile).map_err(CreateError::Seccomp)?;
    if listener::is_used(profile) {
        compiled.flags |= sys::NEW_LISTENER;
    }
    let path = state_folder.join(SECCOMP_FILE);
    std::fs::write(&path, &compiled.program).map_err(host("write the seccomp filter"))?;
    tracing::debug!("seccomp filter flags: {}", compiled.flags);
    Ok(Some(SeccompFile { path, flags: compiled.flags }))
}

/// Where the container's groups are: as the spec says, or below one of our own.
fn cgroups_path(request: &CreateRequest, spec: &Spec) -> Result<PathBuf, CreateError> {
    let said = spec.linux().as_ref().and_then(|l| l.cgroups_path().clone());
    let id = &request.id;
    if request.systemd_cgroup {
        return Ok(Unit::planned(said, id.as_str())?.path().to_owned());
    }
    // As runc: scripts look for a container's group by its name.
    let path = said.unwrap_or_else(|| format!("/{id}").into());
    let climbs = path.components().any(|c| matches!(c, std::path::Component::ParentDir));
    let named = path.components().any(|c| matches!(c, std::path::Component::Normal(_)));
    if climbs || !named {
        return Err(CreateError::CgroupPath(path));
    }
    Ok(Path::new("/").join(path))
}

/// The path of the groups, and the folders that there will be.
fn planned_groups(
    request: &CreateRequest,
    spec: &Spec,
) -> Result<(PathBuf, Vec<PathBuf>), CreateError> {
    let path = cgroups_path(request, spec)?;
    if request.systemd_cgroup {
        return Ok((path, Vec::new()));
    }
    let planned = cgroup::planned(&path).map_err(host("find the control groups"))?;
    Ok((path, planned))
}

/// Nobody may be in them: killing the container kills all that is.
fn check_unused(planned: &[PathBuf]) -> Result<(), CreateError> {
    if let Some(used) =
        planned.iter().find(|f| !cgroup::processes(std::slice::from_ref(f)).is_empty())
    {
        return Err(CreateError::CgroupInUse(used.clone()));
    }
    match planned.iter().find(|folder| cgroup::is_frozen(folder)) {
        Some(frozen) => Err(CreateError::CgroupFrozen(frozen.clone())),
        None => Ok(()),
    }
}

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its process is not waiting: it has ended, or was started before.
    #[error("The container's process does not wait to be started")]
    NotWaiting(#[source] io::Error),
    /// The program is at fault.
    #[error("{message}")]
    Program {
        /// How, when it is known.
        kind: Option<StartFailureKind>,
        /// In runc's words.
        message: String,
    },
    /// A `startContainer` hook. The words are runc's.
    #[error("{0}")]
    Hook(String),
}

impl StartError {
    /// Whether the program itself is at fault.
    #[must_use]
    pub fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::Program { kind, .. } => *kind,
            Self::NotWaiting(_) | Self::Hook(_) => None,
        }
    }
}

/// Lets a container's process execute its program, and returns when it does.
///
/// # Errors
/// When it was not waiting, a `startContainer` hook failed, or the program could not be executed.
pub fn start(sandbox: &SandboxRef) -> Result<(), StartError> {
    let connection = socket::connect(&sandbox.state_folder).map_err(StartError::NotWaiting)?;
    match executor::read_failure(connection) {
        None => {
            let _ = std::fs::remove_file(sandbox.state_folder.join(START_SOCKET));
            Ok(())
        }
        Some(failure) if failure.of_hook => Err(StartError::Hook(failure.message)),
        Some(failure) => Err(StartError::Program { kind: failure.kind, message: failure.message }),
    }
}
