//! `restore` of a container in namespaces, by CRIU, from the caller's side.
//!
//! ```text
//!   image is one, configuration is the saved one? ─▶ helper: groups with their limits ─▶ CRIU
//!        ─▶ setup-namespaces: hooks ─▶ orphan-pts-master: the terminal
//!        ─▶ pre-resume: compared with what was saved, frozen            any failure: all undone
//! ```
//!
//! The processes are frozen when this returns: `resume` sets them going.
//!
//! Hostile: nothing but what the container left in its files. What came back is compared, thread by
//! thread and mount by mount, with what there was: a container that came back with less
//! confinement is ended.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use rust_criu::rust_criu_protobuf::rpc;

use super::checkpoint::{self, CONFIG_ANNOTATION};
use super::create::{self, CreateError, Prepared, host};
use super::criu::{self, Connection, CriuError, Notice, OnRefusal};
use super::criu_flags::{CriuFlags, FlagError};
use super::criu_image::{Image, ImageError, Manifest};
use super::helper::{Helper, Passed};
use super::job::{MountPlace, ReviveJob};
use super::mount_table::{self, Origin};
use super::notices::{NoticeError, Restoring};
use super::process::ProcessPlan;
use super::record::Record;
use super::report::Report;
use super::undo::Undo;
use super::{cgroup, shadow};
use crate::cgroup::Groups;
use crate::cgroup::limits::{self, LimitError, Present};
use crate::cgroup::systemd::Unit;
use crate::cgroup::writes::{self, Write, WriteError};
use crate::host::stdio::ProcessStdio;
use crate::sandbox::request::{CreateRequest, Created, ImageRequest};

const LOG: &str = "restore.log";

/// Above the standard streams, for descriptors that CRIU inherits.
const FIRST_INHERITED: i32 = 10;

/// Why a container does not go on. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// CRIU takes root.
    #[error("criu saves and restores containers for root only")]
    Rootless,
    /// A flag.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Another container.
    #[error(
        "The bundle's configuration is not that of the image: {0} differs. What a container may do cannot be changed by restoring it"
    )]
    Configuration(String),
    /// A place without a mount.
    #[error(
        "The image's container has a bind mount at {0}, and the bundle's configuration has none"
    )]
    Mount(PathBuf),
    /// Nothing to bind.
    #[error("Cannot find {}, which the bundle's configuration binds", .path.display())]
    Source {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A control group hierarchy.
    #[error(
        "The image's container sees a control group below {0}, and the restored one has none there"
    )]
    Hierarchy(PathBuf),
    /// CRIU compares them, and nothing else.
    #[error(
        "Standard stream {number} was a FIFO of mode {saved:04o} when the container was saved. criu takes only another FIFO of that mode for it (mkfifo -m {saved:04o}), and not what there is now (st_mode {given:07o})"
    )]
    Fifo {
        /// 0 to 2.
        number: usize,
        /// Its permissions.
        saved: u32,
        /// `st_mode` of what is to be in its place.
        given: u32,
    },
    /// Options of CRIU's, which may be anything.
    #[error(
        "The annotation {CONFIG_ANNOTATION} names options for criu, which can be any program of the host: they are followed with --compat only"
    )]
    Config,
    /// They contradict each other.
    #[error("The limits cannot be kept")]
    Limits(#[from] LimitError),
    /// The kernel refused one.
    #[error("The container's limits cannot be set")]
    Write(#[from] WriteError),
    /// What came back.
    #[error(transparent)]
    Notice(#[from] NoticeError),
    /// CRIU.
    #[error(transparent)]
    Criu(#[from] CriuError),
}

/// What is to be gone on from, looked at before anything is made.
pub(super) fn open(request: &CreateRequest) -> Result<Option<(Image, CriuFlags)>, RestoreError> {
    let Some(ImageRequest { image, work, .. }) = &request.restore else { return Ok(None) };
    if crate::host::user::User::current().is_rootless() {
        return Err(RestoreError::Rootless);
    }
    let flags = request.restore.as_ref().map(CriuFlags::of).transpose()?.unwrap_or_default();
    if checkpoint::config_file(&request.spec).is_some() && !request.compat {
        return Err(RestoreError::Config);
    }
    Ok(Some((Image::open(image, work.as_deref())?, flags)))
}

/// Sets the container going again, as far as being frozen.
pub(super) fn restore(
    request: CreateRequest,
    prepared: Prepared,
    (image, flags): (Image, CriuFlags),
    undo: &mut Undo,
) -> Result<Created, CreateError> {
    let process = create::process_plan(&request, &prepared);
    let mut record = create::record(&request, &prepared, &process)?;
    let asked = record.confinement.clone().unwrap_or_default();
    check(&image.manifest, &asked, &request).map_err(CreateError::Restore)?;
    let Limited { job, own_limits, pids_limit } =
        job(&request, &prepared, process, &image.manifest)?;
    let mut reviver = Reviver::start(job, &request, &image, &flags)?;
    record.cgroups = cgroup::of_process(reviver.criu).map_err(host("find the control groups"))?;
    undo.made(&record.cgroups, record.unit.as_ref());
    set_limits(&record.cgroups, own_limits.as_ref()).map_err(CreateError::Restore)?;
    let asked = reviver.asked(&request, &image, &flags, &record.cgroups);
    let asked = asked.map_err(CreateError::Restore)?;
    let mut restoring = Restoring {
        request: &request,
        prepared: &prepared,
        manifest: &image.manifest,
        record: &mut record,
        criu: reviver.criu,
        terminal: None,
    };
    let revived = reviver.revive(&asked, |notice| restoring.attend(notice));
    let terminal = restoring.terminal.take();
    revived?;
    if let Some(limit) = pids_limit {
        if request.systemd_cgroup {
            let unit = Unit::known(prepared.cgroups_path.clone(), request.id.as_str());
            unit.tell(&[Write::new("pids.max", &limit)]).map_err(CreateError::Scope)?;
        }
        cgroup::limit_processes(&record.cgroups, &limit).map_err(host("limit the processes"))?;
    }
    finish(&request, record, prepared, terminal)
}

/// The process that becomes CRIU, and the line to it.
struct Reviver {
    helper: Helper,
    connection: Connection,
    /// Its number.
    criu: i32,
    /// What it inherits for the container.
    inherited: Vec<rpc::Inherit_fd>,
}

impl Reviver {
    fn start(
        job: ReviveJob,
        request: &CreateRequest,
        image: &Image,
        flags: &CriuFlags,
    ) -> Result<Self, CreateError> {
        let mut passed = Passed::new(FIRST_INHERITED);
        let inherited = inherited(request, &image.manifest, &mut passed)
            .map_err(host("pass on descriptors"))?;
        let (connection, theirs) = Connection::open(image.work_path.join(LOG)).map_err(failed)?;
        let stdio = of_criu(&request.stdio, flags).map_err(host("pass on the standard streams"))?;
        let mut helper = Helper::spawn_reviver(job, stdio, theirs, passed)
            .map_err(host("start the process that becomes criu"))?;
        let criu = wait_until_ready(&mut helper)?;
        Ok(Self { helper, connection, criu, inherited })
    }

    fn asked(
        &mut self,
        request: &CreateRequest,
        image: &Image,
        flags: &CriuFlags,
        groups: &[PathBuf],
    ) -> Result<rpc::Criu_req, RestoreError> {
        let mut options = options(request, image, flags);
        options.inherit_fd = std::mem::take(&mut self.inherited);
        options.ext_mnt = external(&image.manifest, request, groups)?;
        let mut asked = rpc::Criu_req::new();
        asked.set_type(rpc::Criu_req_type::RESTORE);
        asked.opts = Some(options).into();
        Ok(asked)
    }

    /// Ends when CRIU has ended.
    fn revive(
        mut self,
        asked: &rpc::Criu_req,
        attend: impl FnMut(Notice) -> Result<(), NoticeError>,
    ) -> Result<(), CreateError> {
        let outcome = self.connection.ask(asked, OnRefusal::Leave, attend);
        if outcome.is_err() {
            self.helper.kill();
        }
        drop(self.connection);
        self.helper.join().map_err(host("wait for criu"))?;
        outcome.map(drop).map_err(|e| CreateError::Restore(e.into()))
    }
}

fn set_limits(groups: &[PathBuf], wanted: Option<&LinuxResources>) -> Result<(), RestoreError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let groups = Groups::new(groups);
    let list = limits::writes(groups.version(), wanted, Present::default())?;
    Ok(writes::apply(groups, &list)?)
}

fn failed(error: CriuError) -> CreateError {
    CreateError::Restore(error.into())
}

fn finish(
    request: &CreateRequest,
    record: Record,
    prepared: Prepared,
    terminal: Option<OwnedFd>,
) -> Result<Created, CreateError> {
    record.save(&request.state_folder).map_err(host("write the record of the container"))?;
    let process = record
        .init
        .ok_or(io::ErrorKind::NotFound.into())
        .map_err(host("find the first process"))?;
    Ok(Created { process, terminal, notes: prepared.hardened.notes() })
}

/// Whether the bundle is of the container that was saved.
fn check(
    manifest: &Manifest,
    asked: &super::confinement::Confinement,
    request: &CreateRequest,
) -> Result<(), RestoreError> {
    if let Some(field) = manifest.confinement.difference(asked) {
        return Err(RestoreError::Configuration(field.to_owned()));
    }
    if manifest.has_terminal != matches!(request.stdio, ProcessStdio::Terminal { .. }) {
        return Err(RestoreError::Configuration("process.terminal".to_owned()));
    }
    check_fifos(&manifest.fifo_modes, &request.stdio)
}

/// Whether what was a FIFO becomes one again.
fn check_fifos(saved: &[Option<u32>; 3], stdio: &ProcessStdio) -> Result<(), RestoreError> {
    let ProcessStdio::Inherit { stdin, stdout, stderr } = stdio else { return Ok(()) };
    for (number, (saved, stream)) in saved.iter().zip([stdin, stdout, stderr]).enumerate() {
        let Some(saved) = *saved else { continue };
        // Without a stream there is `/dev/null`.
        let seen = stream.as_ref().and_then(|stream| rustix::fs::fstat(stream).ok());
        let given = seen.map_or(libc::S_IFCHR, |seen| seen.st_mode);
        if given & libc::S_IFMT != libc::S_IFIFO || given & checkpoint::PERMISSIONS != saved {
            return Err(RestoreError::Fifo { number, saved, given });
        }
    }
    Ok(())
}

struct Limited {
    job: ReviveJob,
    /// Set when the groups are there.
    own_limits: Option<LinuxResources>,
    /// Set when there are no processes in them but the container's.
    pids_limit: Option<String>,
}

fn job(
    request: &CreateRequest,
    prepared: &Prepared,
    process: ProcessPlan,
    manifest: &Manifest,
) -> Result<Limited, CreateError> {
    let spec = &prepared.hardened.spec;
    let mut limited = shadow::make(spec, &request.rootfs).spec;
    let pids_limit = shadow::take_pids_limit(&mut limited);
    let own_limits = shadow::take_limits(&mut limited, cgroup::is_unified());
    let job = ReviveJob {
        id: request.id.to_string(),
        rootfs: request.rootfs.clone(),
        root_is_read_only: spec.root().as_ref().and_then(|root| root.readonly()) == Some(true),
        resources: limited.linux().as_ref().and_then(|linux| linux.resources().clone()),
        cgroups_path: prepared.cgroups_path.clone(),
        systemd_cgroup: request.systemd_cgroup,
        hides_groups: has_own(spec, LinuxNamespaceType::Cgroup),
        new_session_keyring: process.new_session_keyring,
        no_new_privileges: manifest.observed.gains_nothing(),
        scheduling: process.scheduling,
        places: places(manifest, request).map_err(CreateError::Restore)?,
        socket: -1,
    };
    Ok(Limited { job, own_limits, pids_limit })
}

fn has_own(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|n| n.typ() == kind && n.path().is_none())
}

/// Where mounts lie in the root file system or in what is bound there. Elsewhere CRIU makes them.
fn places(manifest: &Manifest, request: &CreateRequest) -> Result<Vec<MountPlace>, RestoreError> {
    let mut places = Vec::new();
    for mount in manifest.mounts.iter().filter(|mount| mount.place != Path::new("/")) {
        let holding = manifest
            .mounts
            .iter()
            .map(|other| &other.place)
            .filter(|other| **other != mount.place && mount.place.starts_with(other));
        let Some(parent) = holding.max_by_key(|other| other.components().count()) else { continue };
        let bound = manifest.external.iter().find_map(|external| match &external.origin {
            Origin::Bind(destination) if external.place == *parent => Some(destination),
            _ => None,
        });
        let root = match bound {
            Some(destination) => source(request, destination)?,
            None if parent == Path::new("/") => request.rootfs.clone(),
            None => continue,
        };
        let below = mount.place.strip_prefix(parent).unwrap_or(&mount.place).to_owned();
        places.push(MountPlace { root, below, is_file: manifest.files.contains(&mount.place) });
    }
    Ok(places)
}

fn source(request: &CreateRequest, destination: &Path) -> Result<PathBuf, RestoreError> {
    let mount = checkpoint::bind_of(&request.spec, destination);
    let source = mount.and_then(|mount| mount.source().clone());
    let source = source.ok_or_else(|| RestoreError::Mount(destination.to_owned()))?;
    let path = request.bundle.join(source);
    // CRIU compares it with the mounts that it sees.
    fs::canonicalize(&path).map_err(|source| RestoreError::Source { path, source })
}

/// Where the mounts come from that come from outside.
fn external(
    manifest: &Manifest,
    request: &CreateRequest,
    groups: &[PathBuf],
) -> Result<Vec<rpc::Ext_mount_map>, RestoreError> {
    let of = |external: &mount_table::External| {
        let source = match &external.origin {
            Origin::Bind(destination) => source(request, destination)?,
            Origin::OwnGroup { hierarchy, below } => {
                let own = groups.iter().find(|group| group.starts_with(hierarchy));
                own.ok_or_else(|| RestoreError::Hierarchy(hierarchy.clone()))?.join(below)
            }
            Origin::Group(path) | Origin::Device(path) => path.clone(),
        };
        let mut map = rpc::Ext_mount_map::new();
        map.set_key(external.place.to_string_lossy().into_owned());
        map.set_val(source.to_string_lossy().into_owned());
        Ok(map)
    };
    manifest.external.iter().map(of).collect()
}

fn options(request: &CreateRequest, image: &Image, flags: &CriuFlags) -> rpc::Criu_opts {
    let mut options = rpc::Criu_opts::new();
    flags.apply(&mut options);
    options.set_images_dir_fd(image.opened.as_raw_fd());
    options.set_work_dir_fd(image.work.as_raw_fd());
    options.set_log_file(LOG.to_owned());
    options.set_log_level(criu::LOG_LEVEL);
    options.set_notify_scripts(true);
    options.set_root(request.rootfs.to_string_lossy().into_owned());
    options.set_evasive_devices(true);
    // A child of this process, as every first process of a container is.
    options.set_rst_sibling(true);
    options.set_orphan_pts_master(true);
    options.config_file = checkpoint::config_file(&request.spec);
    options
}

/// What CRIU inherits: the standard streams, and the network namespace that the bundle names.
fn inherited(
    request: &CreateRequest,
    manifest: &Manifest,
    passed: &mut Passed,
) -> io::Result<Vec<rpc::Inherit_fd>> {
    let mut list = Vec::new();
    let mut add = |key: &str, descriptor: std::os::fd::BorrowedFd<'_>| {
        let mut inherited = rpc::Inherit_fd::new();
        inherited.set_key(key.to_owned());
        inherited.set_fd(passed.add(descriptor)?);
        list.push(inherited);
        Ok::<(), io::Error>(())
    };
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    if let ProcessStdio::Inherit { stdin, stdout, stderr } = &request.stdio {
        for (key, stream) in manifest.streams.iter().zip([stdin, stdout, stderr]) {
            let Some(key) = key else { continue };
            add(key, stream.as_ref().map_or(null.as_fd(), |stream| stream.as_fd()))?;
        }
    }
    if let Some(path) = checkpoint::network_path(&request.spec) {
        add(checkpoint::NETWORK, fs::File::open(path)?.as_fd())?;
    }
    Ok(list)
}

/// CRIU's own standard streams: the container's where they are a terminal's, by which CRIU finds it.
fn of_criu(stdio: &ProcessStdio, flags: &CriuFlags) -> io::Result<ProcessStdio> {
    let copy = |stream: &Option<OwnedFd>| stream.as_ref().map(OwnedFd::try_clone).transpose();
    match stdio {
        ProcessStdio::Inherit { stdin, stdout, stderr } if flags.shell_job => {
            let (stdin, stdout, stderr) = (copy(stdin)?, copy(stdout)?, copy(stderr)?);
            Ok(ProcessStdio::Inherit { stdin, stdout, stderr })
        }
        _ => Ok(ProcessStdio::Inherit { stdin: None, stdout: None, stderr: None }),
    }
}

/// The helper's number, which is CRIU's.
fn wait_until_ready(helper: &mut Helper) -> Result<i32, CreateError> {
    let mut criu = None;
    while let Some(report) = helper.next_report() {
        match report {
            Report::Ready { pid, .. } => criu = Some(pid),
            Report::Failed { message, .. } => {
                let _ = helper.join();
                return Err(CreateError::Container(message));
            }
            Report::Log { .. } => {}
        }
    }
    // It was executed: nobody holds the reports any more.
    criu.ok_or_else(|| {
        CreateError::Container("The process that becomes criu was killed".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_output(saved: u32, output: Option<OwnedFd>) -> Result<(), RestoreError> {
        let stdio = ProcessStdio::Inherit { stdin: None, stdout: output, stderr: None };
        check_fifos(&[None, Some(saved), None], &stdio)
    }

    /// A pipe is a FIFO of mode 0600.
    fn pipe() -> Option<OwnedFd> {
        Some(io::pipe().unwrap().1.into())
    }

    #[test]
    fn what_was_a_fifo_is_followed_by_another_of_its_mode_only() {
        check_output(0o600, pipe()).unwrap();
        let refused = check_output(0o700, pipe()).unwrap_err().to_string();
        for word in ["Standard stream 1 ", "mode 0700", "st_mode 0010600"] {
            assert!(refused.contains(word), "{refused}");
        }
        assert!(check_output(0o600, Some(tempfile::tempfile().unwrap().into())).is_err());
        assert!(check_output(0o600, None).is_err());
    }
}
