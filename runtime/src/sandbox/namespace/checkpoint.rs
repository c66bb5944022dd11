//! `checkpoint` of a container in namespaces, by CRIU: its first process and all that come from it.
//!
//! ```text
//!   refuse what cannot be saved ─▶ CRIU stops the processes, writes its files
//!        ─▶ post-dump: what they may do and what is mounted is written beside them
//!        ─▶ CRIU ends them (or lets them run on)          any failure: they run on, no image
//! ```
//!
//! There is no process of the runtime's in a container, and none that attends it: its first process
//! is the root of what is saved.
//!
//! Hostile: the container. What it did to its mounts is looked at (see [`super::mount_table`]).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, Stdio};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rust_criu::rust_criu_protobuf::rpc;
use rustix::io::FdFlags;

use super::confinement::{Confinement, Observed};
use super::criu::{self, Connection, CriuError, OnRefusal, step};
use super::criu_flags::{CriuFlags, FlagError};
use super::criu_image::{Draft, ImageError, Manifest};
use super::listener;
use super::members;
use super::mount_table::{self, External, MountTableError, Mounted};
use super::record::Record;
use crate::cgroup::freezer;
use crate::host::user::User;
use crate::sandbox::request::{ImageRequest, SandboxRef};
use crate::spec::SpecError;
use crate::spec::rules;

use super::cgroup;

const LOG: &str = "dump.log";

/// By which CRIU knows the network namespace that the configuration names.
pub(super) const NETWORK: &str = "extRootNetNS";

/// Those of `st_mode`, without the kind of the file.
pub(super) const PERMISSIONS: u32 = 0o7777;

/// A bundle's word for a file with options of CRIU's, as runc has it.
pub(super) const CONFIG_ANNOTATION: &str = "org.criu.config";

/// Why a container was not saved. It runs on.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// CRIU takes root.
    #[error("criu saves and restores containers for root only")]
    Rootless,
    /// The container's first process is not there.
    #[error("The container does not run")]
    NotRunning,
    /// A flag.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// An earlier image. The words are runc's.
    #[error("--parent-path must be relative to the folder of the image")]
    AbsoluteParent,
    /// An earlier image. The words are runc's.
    #[error("invalid --parent-path")]
    Parent(#[source] io::Error),
    /// The state folder was changed, or an older version made the container.
    #[error("The record of the container cannot be read")]
    Record(#[source] io::Error),
    /// An older version made the container.
    #[error("The container was created by a version that did not record what it may do")]
    Unrecorded,
    /// The configuration.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// What the container has and CRIU cannot bring back.
    #[error(
        "The container cannot be saved: {0}. A container in a microVM can (--isolation microvm)"
    )]
    Refused(Unsaved),
    /// The mounts.
    #[error(transparent)]
    Mounts(#[from] MountTableError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The processes.
    #[error("Cannot look at the container's processes")]
    Observe(#[source] io::Error),
    /// CRIU.
    #[error(transparent)]
    Criu(#[from] CriuError),
}

/// What a container has that CRIU cannot bring back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsaved {
    /// Somebody answers for it.
    #[error("its seccomp profile has a listener, which nobody would be after it")]
    Listener,
    /// Not its own.
    #[error("its mounts are the host's")]
    HostMounts,
    /// Not its own.
    #[error("its {0} namespace is one that it joined")]
    Joined(LinuxNamespaceType),
    /// A program that `exec` started.
    #[error("process {0} was started by exec and is no child of the container's: end it first")]
    Exec(i32),
    /// Groups of its own making.
    #[error("it has processes in a control group of its own making, {0}")]
    Groups(PathBuf),
    /// Whose, CRIU must be told.
    #[error("its standard stream {0} is a terminal of its caller's: say --shell-job")]
    Terminal(usize),
    /// Options of CRIU's, which may be anything.
    #[error(
        "its annotation {CONFIG_ANNOTATION} names options for criu, which can be any program of the host: they are followed with --compat only"
    )]
    Config,
}

/// Saves a container.
///
/// # Errors
/// Then it runs on.
pub fn checkpoint(sandbox: &SandboxRef, request: &ImageRequest) -> Result<(), CheckpointError> {
    if User::current().is_rootless() {
        return Err(CheckpointError::Rootless);
    }
    let flags = CriuFlags::of(request)?;
    let parent = parent(request)?;
    let saved = Saved::look(sandbox, &flags)?;
    let draft = Draft::begin(&request.image, request.work.as_deref())?;
    let was_frozen = saved.record.cgroups.iter().any(|folder| cgroup::is_frozen(folder));
    let outcome = dump(&saved, &flags, request, parent, &draft);
    match outcome {
        Ok(()) => draft.finish(),
        Err(error) => {
            // CRIU does this itself, unless it was killed.
            if let (false, Ok(groups)) = (was_frozen, saved.record.groups()) {
                let _ = freezer::thaw(groups);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Where an earlier image is, as CRIU takes it: seen from this one.
fn parent(request: &ImageRequest) -> Result<Option<String>, CheckpointError> {
    let Some(parent) = &request.parent else { return Ok(None) };
    if parent.is_absolute() {
        return Err(CheckpointError::AbsoluteParent);
    }
    let found = fs::metadata(beside(&request.image, parent)).and_then(|found| {
        if found.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
    });
    found.map_err(CheckpointError::Parent)?;
    Ok(Some(parent.to_string_lossy().into_owned()))
}

/// Where a relative path leads from a folder that need not be there yet.
fn beside(folder: &Path, path: &Path) -> PathBuf {
    if folder.exists() {
        return folder.join(path);
    }
    path.components().fold(folder.to_path_buf(), |at, component| match component {
        Component::ParentDir => at.parent().map_or_else(PathBuf::new, Path::to_path_buf),
        other => at.join(other),
    })
}

/// A container that is to be saved.
struct Saved {
    init: i32,
    spec: Spec,
    record: Record,
    confinement: Confinement,
    external: Vec<External>,
    /// The standard streams, as CRIU names what comes from outside.
    streams: [Stream; 3],
}

impl Saved {
    fn look(sandbox: &SandboxRef, flags: &CriuFlags) -> Result<Self, CheckpointError> {
        let process = sandbox.process.filter(|process| process.is_alive());
        let init = process.ok_or(CheckpointError::NotRunning)?.pid;
        let record = Record::load(&sandbox.state_folder).map_err(CheckpointError::Record)?;
        let spec = sandbox.spec()?;
        refuse(&spec, &record, init).map_err(CheckpointError::Refused)?;
        let confinement = record.confinement.clone().ok_or(CheckpointError::Unrecorded)?;
        let mounts = mount_table::of_process(init).map_err(MountTableError::Read)?;
        let root = PathBuf::from(format!("/proc/{init}/root"));
        let external = mount_table::external(&mounts, &spec, &root, &record.cgroups)?;
        let streams = std::array::from_fn(|number| Stream::of(init, number, &mounts));
        let terminal = streams.iter().position(|stream| stream.is_terminal);
        if let Some(number) = terminal.filter(|_| !flags.shell_job) {
            return Err(CheckpointError::Refused(Unsaved::Terminal(number)));
        }
        Ok(Self { init, spec, record, confinement, external, streams })
    }

    fn options(&self, flags: &CriuFlags, request: &ImageRequest, draft: &Draft) -> rpc::Criu_opts {
        let mut options = rpc::Criu_opts::new();
        flags.apply(&mut options);
        options.set_images_dir_fd(draft.opened.as_raw_fd());
        options.set_work_dir_fd(draft.work.as_raw_fd());
        options.set_log_file(LOG.to_owned());
        options.set_log_level(criu::LOG_LEVEL);
        options.set_notify_scripts(true);
        options.set_pid(self.init);
        options.set_leave_running(request.leave_running);
        options.set_orphan_pts_master(true);
        options.set_track_mem(flags.pre_dump || request.parent.is_some());
        options.freeze_cgroup = freezer_of(&self.record.cgroups);
        options.ext_mnt = self.external.iter().map(external_mount).collect();
        options.external = self.streams.iter().filter_map(|s| s.external.clone()).collect();
        options.external.extend(network(&self.spec));
        options.config_file = config_file(&self.spec);
        options
    }

    /// What is to be seen now that the processes stand still.
    fn manifest(&self) -> Result<Manifest, CheckpointError> {
        let terminal = self.spec.process().as_ref().and_then(|process| process.terminal());
        let mut manifest = Manifest::new(self.confinement.clone(), terminal.unwrap_or(false));
        manifest.observed = Observed::now(self.init, &members::of(&self.record))
            .map_err(CheckpointError::Observe)?;
        let mounts = mount_table::of_process(self.init).map_err(MountTableError::Read)?;
        manifest.mounts = mount_table::facts(&mounts);
        manifest.files = files_among(&mounts, self.init);
        manifest.external.clone_from(&self.external);
        manifest.fifo_modes = self.streams.each_ref().map(|stream| stream.fifo_mode);
        manifest.streams = self.streams.clone().map(|stream| stream.key);
        Ok(manifest)
    }
}

fn dump(
    saved: &Saved,
    flags: &CriuFlags,
    request: &ImageRequest,
    parent: Option<String>,
    draft: &Draft,
) -> Result<(), CheckpointError> {
    let mut asked = rpc::Criu_req::new();
    let kind = if flags.pre_dump { rpc::Criu_req_type::PRE_DUMP } else { rpc::Criu_req_type::DUMP };
    asked.set_type(kind);
    let mut options = saved.options(flags, request, draft);
    options.parent_img = parent;
    asked.opts = Some(options).into();
    let (connection, theirs) = Connection::open(draft.work_path.join(LOG))?;
    let mut running = Running::start(theirs)?;
    let outcome = connection.ask(&asked, OnRefusal::Tell, |notice| {
        if notice.step == "post-dump" {
            let descriptors = saved.streams.clone().map(|stream| stream.shown);
            draft.write(&saved.manifest()?, &descriptors)?;
        }
        Ok::<(), CheckpointError>(())
    });
    drop(connection);
    running.join();
    outcome.map(|_| ())
}

/// CRIU at work.
struct Running(Child);

impl Running {
    /// Starts it. A signal to the caller's group, a Ctrl-C, is none to it: it sees that the caller
    /// is gone, and lets the container run on.
    fn start(socket: OwnedFd) -> Result<Self, CriuError> {
        rustix::io::fcntl_setfd(&socket, FdFlags::empty())
            .map_err(|e| step("hand criu its socket")(e.into()))?;
        let mut command = Command::new(criu::PROGRAM);
        command.arg("swrk").arg(socket.as_raw_fd().to_string()).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => Ok(Self(child)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(CriuError::Missing),
            Err(e) => Err(step("start criu")(e)),
        }
    }

    fn join(&mut self) {
        let _ = self.0.wait();
    }
}

/// What CRIU cannot bring back.
fn refuse(spec: &Spec, record: &Record, init: i32) -> Result<(), Unsaved> {
    let linux = spec.linux().as_ref();
    let profile = linux.and_then(|linux| linux.seccomp().as_ref());
    if profile.is_some_and(listener::is_used) {
        return Err(Unsaved::Listener);
    }
    if rules::shares_mounts(spec) {
        return Err(Unsaved::HostMounts);
    }
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    let joined = namespaces.into_iter().flatten().find(|namespace| {
        namespace.path().is_some() && namespace.typ() != LinuxNamespaceType::Network
    });
    if let Some(joined) = joined {
        return Err(Unsaved::Joined(joined.typ()));
    }
    if config_file(spec).is_some() && !record.compat {
        return Err(Unsaved::Config);
    }
    if let Some(group) = cgroup::populated_below(&record.cgroups) {
        return Err(Unsaved::Groups(group));
    }
    let all: HashSet<i32> = members::of(record).into_iter().collect();
    let stray = all.iter().find(|pid| **pid != init && !all.contains(&parent_of(**pid)));
    stray.map_or(Ok(()), |pid| Err(Unsaved::Exec(*pid)))
}

/// A process that has just ended has init for its parent, for all that matters.
fn parent_of(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace());
    fields.and_then(|mut fields| fields.nth(1)?.parse().ok()).unwrap_or(pid)
}

/// A file of CRIU's options that the bundle names.
pub(super) fn config_file(spec: &Spec) -> Option<String> {
    spec.annotations().as_ref()?.get(CONFIG_ANNOTATION).filter(|file| !file.is_empty()).cloned()
}

/// The network namespace that the configuration names.
pub(super) fn network_path(spec: &Spec) -> Option<PathBuf> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    let network = namespaces.iter().find(|n| n.typ() == LinuxNamespaceType::Network)?;
    network.path().clone()
}

fn network(spec: &Spec) -> Option<String> {
    let inode = fs::metadata(network_path(spec)?).ok()?.ino();
    Some(format!("net[{inode}]:{NETWORK}"))
}

fn external_mount(external: &External) -> rpc::Ext_mount_map {
    let place = external.place.to_string_lossy().into_owned();
    let mut map = rpc::Ext_mount_map::new();
    map.set_key(place.clone());
    map.set_val(place);
    map
}

/// The group in which CRIU stops the processes all at once.
fn freezer_of(groups: &[PathBuf]) -> Option<String> {
    let with = |file: &str| groups.iter().find(|folder| folder.join(file).exists());
    let folder = with("freezer.state").or_else(|| with("cgroup.freeze"))?;
    Some(folder.to_string_lossy().into_owned())
}

/// The places of mounts that are over files.
fn files_among(mounts: &[Mounted], init: i32) -> Vec<PathBuf> {
    let root = PathBuf::from(format!("/proc/{init}/root"));
    let is_file = |place: &&PathBuf| {
        let below = place.strip_prefix("/").unwrap_or(place);
        fs::symlink_metadata(root.join(below)).is_ok_and(|found| !found.is_dir())
    };
    mounts.iter().map(|mount| &mount.place).filter(is_file).cloned().collect()
}

/// A standard stream of the first process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stream {
    /// What `/proc` shows, as runc writes it down.
    shown: String,
    /// What CRIU calls it when it asks for its successor; none: it is the container's own.
    key: Option<String>,
    /// By which CRIU is told that it comes from outside.
    external: Option<String>,
    /// Its permissions, if it is a FIFO that comes from outside.
    fifo_mode: Option<u32>,
    /// It is a terminal that is not the container's own.
    is_terminal: bool,
}

impl Stream {
    fn of(init: i32, number: usize, mounts: &[Mounted]) -> Self {
        let path = format!("/proc/{init}/fd/{number}");
        let shown = fs::read_link(&path).unwrap_or_else(|_| "/dev/null".into());
        let shown = shown.to_string_lossy().into_owned();
        if shown.starts_with("pipe:") {
            return Self { key: Some(shown.clone()), shown, ..Self::default() };
        }
        match outside(&path, init, number, mounts) {
            Some(Outside::Terminal) => Self { shown, is_terminal: true, ..Self::default() },
            Some(Outside::File { key, fifo_mode }) => Self {
                shown,
                external: Some(key.clone()),
                key: Some(key),
                fifo_mode,
                ..Self::default()
            },
            None => Self { shown, ..Self::default() },
        }
    }
}

/// An open file that is not below any of the container's mounts.
enum Outside {
    Terminal,
    File {
        /// CRIU's name for it.
        key: String,
        fifo_mode: Option<u32>,
    },
}

fn outside(path: &str, init: i32, number: usize, mounts: &[Mounted]) -> Option<Outside> {
    let found = fs::metadata(path).ok()?;
    let information = fs::read_to_string(format!("/proc/{init}/fdinfo/{number}")).ok()?;
    let id: u32 =
        information.lines().find_map(|l| l.strip_prefix("mnt_id:"))?.trim().parse().ok()?;
    if mounts.iter().any(|mount| mount.id == id) {
        return None;
    }
    let kind = found.file_type();
    if kind.is_char_device() && is_terminal(found.rdev()) {
        return Some(Outside::Terminal);
    }
    let is_file = kind.is_file() || kind.is_char_device() || kind.is_fifo();
    let fifo_mode = kind.is_fifo().then(|| found.mode() & PERMISSIONS);
    let key = format!("file[{id:x}:{:x}]", found.ino());
    is_file.then_some(Outside::File { key, fifo_mode })
}

/// By the numbers that the kernel gives to terminals of every kind.
fn is_terminal(device: u64) -> bool {
    matches!(rustix::fs::major(device), 4 | 5 | 136..=143)
}

/// The bind of a configuration that has this destination.
pub(super) fn bind_of<'a>(
    spec: &'a Spec,
    destination: &Path,
) -> Option<&'a oci_spec::runtime::Mount> {
    let mounts = spec.mounts().as_ref()?;
    mounts.iter().rfind(|m| m.destination() == destination && mount_table::is_bind(m))
}
