//! The helper's way to make a container, on `libcontainer`.
//!
//! What `libcontainer` does here: control groups with their limits, namespaces with their mappings,
//! the root file system with its mounts, devices, masked and read-only paths, sysctls, the hooks
//! between them, the terminal. What it is not left to do, and why (the details are in
//! `docs/decisions`): everything in [`super::process`], because `exec` needs the same; and the
//! waiting for `start`, because a `start` that fails must say so.
//!
//! ```text
//!   helper                        container's first process
//!     │ container_main_process ──────▶ namespaces, mounts, hooks
//!     │                                stage:      our mounts, hooks (see its module)
//!     │                                validate:   program found, mounts completed
//!     │                                setup_envs: prepared (privileges dropped)
//!     │ ◀───────────── init ready ────
//!     │ ── libcontainer's own start ─▶ exec: waits on start.sock
//!     │ Report::Ready
//!     ▼ ends                           ... start ... execve
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcgroups::common::CgroupConfig;
use libcontainer::container::{Container, ContainerStatus, State};
use libcontainer::notify_socket::{NotifyListener, NotifySocket};
use libcontainer::process::args::{ContainerArgs, ContainerType};
use libcontainer::process::container_main_process::container_main_process;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::user_ns::UserNamespaceConfig;
use oci_spec::runtime::{HookBuilder, HooksBuilder, LinuxNamespaceType, LinuxResources, Spec};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};

use super::attendant::Attendant;
use super::cgroup;
use super::executor::ProcessExecutor;
use super::host_mounts::HostMounts;
use super::job::{ConstructJob, RootlessJob};
use super::process::Limit;
use super::report::{Report, Reporter, describe};
use super::{helper, own_users, report_log, socket, stage, sys, working_folder};
use crate::cgroup::limits::{self, LimitError, Present};
use crate::cgroup::systemd::{ScopeError, Unit};
use crate::cgroup::writes::{self, WriteError};
use crate::cgroup::{Groups, delegation};

/// The socket that `libcontainer` insists on.
const NOTIFY_SOCKET: &str = "notify.sock";

/// Why no container was made, as far as this process knows: the container's own process reports
/// for itself.
#[derive(Debug, thiserror::Error)]
enum ConstructError {
    #[error("Cannot {step}")]
    Step { step: &'static str, source: io::Error },
    #[error(transparent)]
    OwnUsers(#[from] own_users::EnterError),
    #[error("The namespaces are not ones that can be made")]
    Namespaces(#[source] libcontainer::user_ns::UserNamespaceError),
    #[error("Cannot open the start socket")]
    Notify(#[source] libcontainer::notify_socket::NotifyListenerError),
    #[error("Cannot make the container")]
    Container(#[source] libcontainer::process::container_main_process::ProcessError),
    #[error("The limits cannot be kept")]
    Limits(#[source] LimitError),
    #[error("The container's limits cannot be set")]
    Write(#[source] WriteError),
    #[error(transparent)]
    Scope(#[from] ScopeError),
    #[error("Cannot prepare the container's process")]
    Process(#[source] super::process::ProcessError),
}

/// Does the job and reports.
pub(super) fn run(job: ConstructJob, reporter: Reporter) {
    if let Ok(log) = reporter.try_clone() {
        report_log::install(log);
    }
    match construct(job, &reporter) {
        Ok((pid, cgroups)) => reporter.send(&Report::Ready { pid, cgroups }),
        Err(e) => reporter.send(&Report::Failed { kind: None, message: describe(&e) }),
    }
}

fn construct(
    mut job: ConstructJob,
    reporter: &Reporter,
) -> Result<(i32, Vec<PathBuf>), ConstructError> {
    job.process.read_seccomp().map_err(ConstructError::Process)?;
    if let Some(score) = job.process.oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(step("set the OOM score"))?;
    }
    let listener = socket::bind(&job.state_folder).map_err(step("open the start socket"))?;
    let notify_path = job.state_folder.join(NOTIFY_SOCKET);
    let notify = NotifyListener::new(&notify_path).map_err(ConstructError::Notify)?;
    let log = reporter.try_clone().map_err(step("report"))?;
    let staging = Staging::prepare(&mut job, reporter).map_err(step("prepare the stage"))?;
    if let Some(rootless) = &job.rootless {
        // Before: from inside the socket may be out of reach. The message waits in it.
        tell_to_go_on(&notify_path)?;
        job.cgroups_path = enter_rootless(rootless)?;
    }
    sys::set_dumpable(false).map_err(step("hide from the container"))?;
    // A user namespace may not raise limits: then they are set from outside.
    let limits = if has_user_namespace(&job.spec) {
        std::mem::take(&mut job.process.limits)
    } else {
        Vec::new()
    };
    working_folder::make(&job).map_err(step("make the working folder"))?;
    let is_rootless = job.rootless.is_some();
    if !is_rootless && !job.systemd_cgroup && cgroup::is_unified() {
        delegation::offer_controllers(&job.cgroups_path);
    }
    let host =
        HostMounts::take(&mut job.spec, &job.rootfs).map_err(step("open the host's mounts"))?;
    let scope = enter_scope(&mut job)?;
    let rest = Rest {
        limits,
        cgroups_path: job.cgroups_path.clone(),
        scope,
        pids_limit: job.pids_limit.take(),
        own_limits: job.own_limits.take(),
        notify_path,
    };
    let executing = Executing { listener, reporter: log, of_stage: staging.numbers(), host };
    // The caller knows a rootless container's group, and is the one who may write there.
    let further_groups = (!is_rootless).then(|| job.cgroups_path.clone());
    let pid = make(&arguments(job, notify, executing)?, further_groups.as_deref())?;
    drop(staging);
    if is_rootless {
        return Ok((pid, Vec::new()));
    }
    Ok((pid, rest.complete(pid)?))
}

/// The container's first process, born in its groups of the hierarchies that have no controllers.
fn make(arguments: &ContainerArgs, further_groups: Option<&Path>) -> Result<i32, ConstructError> {
    let before = cgroup::Before::of_this_process().map_err(step("find the own control groups"))?;
    if let Some(path) = further_groups {
        cgroup::enter_without_controllers(path)
            .map_err(step("enter the remaining control groups"))?;
    }
    let made = container_main_process(arguments).map_err(ConstructError::Container)?;
    before.return_there().map_err(step("leave the container's control groups"))?;
    Ok(made.as_raw())
}

/// What is left to do when the container's first process is there.
struct Rest {
    limits: Vec<Limit>,
    cgroups_path: PathBuf,
    /// The unit of systemd's that the group is.
    scope: Option<Unit>,
    pids_limit: Option<String>,
    own_limits: Option<LinuxResources>,
    notify_path: PathBuf,
}

impl Rest {
    /// The process's control groups.
    fn complete(self, pid: i32) -> Result<Vec<PathBuf>, ConstructError> {
        for limit in self.limits {
            limit.apply(pid).map_err(ConstructError::Process)?;
        }
        let cgroups = match &self.scope {
            // This process is in it as well, for a moment more.
            Some(_) => cgroup::planned(&self.cgroups_path),
            None => cgroup::of_process(pid),
        };
        let cgroups = cgroups.map_err(step("find the container's control groups"))?;
        if let Some(limit) = self.pids_limit {
            if let Some(unit) = &self.scope {
                unit.tell(&[writes::Write::new("pids.max", &limit)])?;
            }
            cgroup::limit_processes(&cgroups, &limit).map_err(step("limit the processes"))?;
        }
        set_limits(&cgroups, self.own_limits.as_ref(), self.scope.as_ref())?;
        tell_to_go_on(&self.notify_path)?;
        Ok(cgroups)
    }
}

/// Lets `libcontainer` hand over to [`super::executor`], which waits for `start` itself.
fn tell_to_go_on(notify_path: &Path) -> Result<(), ConstructError> {
    NotifySocket::new(notify_path).notify_container_start().map_err(ConstructError::Notify)?;
    std::fs::remove_file(notify_path).map_err(step("remove a socket"))
}

/// Enters the control group and the user namespace of a container whose caller has no privileges;
/// the path of the group, for `libcontainer` to stay where it is.
fn enter_rootless(rootless: &RootlessJob) -> Result<PathBuf, ConstructError> {
    if let Some(group) = &rootless.group {
        std::fs::write(group.join("cgroup.procs"), "0").map_err(step("enter the control group"))?;
    }
    if let Some(users) = &rootless.users {
        own_users::enter(users)?;
    }
    own_users::cover_version_1()?;
    let own = std::fs::read_to_string("/proc/self/cgroup").map_err(step("find the own group"))?;
    Ok(delegation::own_group(&own))
}

/// Enters the scope that systemd makes, which is a group like any other to `libcontainer`. The
/// container's first process is born in it.
fn enter_scope(job: &mut ConstructJob) -> Result<Option<Unit>, ConstructError> {
    if !job.systemd_cgroup {
        return Ok(None);
    }
    let unit = Unit::known(job.cgroups_path.clone(), &job.id);
    job.cgroups_path = unit.start(std::process::id().cast_signed())?;
    let linux = job.spec.linux().as_ref();
    if let Some(resources) = linux.and_then(|linux| linux.resources().as_ref()) {
        unit.tell_limits(resources)?;
    }
    Ok(Some(unit))
}

fn step(step: &'static str) -> impl Fn(io::Error) -> ConstructError {
    move |source| ConstructError::Step { step, source }
}

fn set_limits(
    cgroups: &[PathBuf],
    wanted: Option<&LinuxResources>,
    scope: Option<&Unit>,
) -> Result<(), ConstructError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let groups = Groups::new(cgroups);
    let list = limits::writes(groups.version(), wanted, Present::default())
        .map_err(ConstructError::Limits)?;
    writes::apply(groups, &list).map_err(ConstructError::Write)?;
    Ok(scope.map_or(Ok(()), |unit| unit.tell(&list))?)
}

/// What the container's first process has open.
struct Executing {
    listener: UnixListener,
    reporter: Reporter,
    of_stage: Vec<RawFd>,
    host: Option<HostMounts>,
}

/// What `libcontainer` is given.
fn arguments(
    job: ConstructJob,
    notify: NotifyListener,
    executing: Executing,
) -> Result<ContainerArgs, ConstructError> {
    let user_ns_config = UserNamespaceConfig::new(&job.spec).map_err(ConstructError::Namespaces)?;
    let mut state = State::new(&job.id, ContainerStatus::Creating, None, job.bundle.clone());
    state.annotations = Some(annotations(&job.spec));
    let preserve_fds = i32::try_from(job.process.preserve_fds).unwrap_or(0);
    let executor = ProcessExecutor {
        process: job.process,
        finish_mounts: job.finish_mounts,
        masked_paths: job.masked_paths,
        new_network: has_new_network(&job.spec),
        start_hooks: job.start_hooks,
        may_be_looked_at: job.rootless.is_some(),
        state: state.clone(),
        host_mounts: executing.host.map(Rc::new),
        listener: Rc::new(executing.listener),
        of_stage: executing.of_stage,
        reporter: Rc::new(executing.reporter),
    };
    Ok(ContainerArgs {
        container_type: ContainerType::InitContainer,
        syscall: SyscallType::Linux,
        spec: Rc::new(job.spec),
        rootfs: job.rootfs,
        console_socket: job.console,
        notify_listener: notify,
        preserve_fds,
        container: Some(Container { state, root: job.state_folder }),
        user_ns_config,
        cgroup_config: CgroupConfig {
            cgroup_path: job.cgroups_path,
            systemd_cgroup: false,
            container_name: job.id,
        },
        detached: true,
        executor: Box::new(executor),
        no_pivot: job.no_pivot,
        stdin: None,
        stdout: None,
        stderr: None,
        as_sibling: true,
        pid_file: None,
    })
}

/// What a stage finds open, and the process that attends it.
struct Staging {
    descriptors: Vec<OwnedFd>,
    /// Waited for after the descriptors are closed.
    _attendant: Option<Attendant>,
}

impl Staging {
    /// Makes `libcontainer` run the stage, if there is one.
    fn prepare(job: &mut ConstructJob, reporter: &Reporter) -> io::Result<Self> {
        let Some(stage) = job.stage.take() else {
            return Ok(Self { descriptors: Vec::new(), _attendant: None });
        };
        let (attendant, socket) = Attendant::start(&stage)?;
        let mut file = File::from(memfd_create("stage", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(&stage)?)?;
        file.rewind()?;
        let descriptors = vec![file.into(), reporter.try_clone()?.into_descriptor(), socket];
        let mut arguments = vec!["cofferdam".to_owned(), helper::ARGUMENT.to_owned()];
        arguments.push(stage::ARGUMENT.to_owned());
        for descriptor in &descriptors {
            // It is executed: what it is to find must stay open.
            fcntl_setfd(descriptor, FdFlags::empty())?;
            arguments.push(descriptor.as_raw_fd().to_string());
        }
        let hook = HookBuilder::default().path("/proc/self/exe").args(arguments).build();
        let hooks = HooksBuilder::default()
            .create_container(vec![hook.map_err(io::Error::other)?])
            .build()
            .map_err(io::Error::other)?;
        job.spec.set_hooks(Some(hooks));
        Ok(Self { descriptors, _attendant: Some(attendant) })
    }

    /// The descriptors' numbers, the same in the container's first process.
    fn numbers(&self) -> Vec<RawFd> {
        self.descriptors.iter().map(AsRawFd::as_raw_fd).collect()
    }
}

fn has_user_namespace(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|n| n.typ() == LinuxNamespaceType::User)
}

fn has_new_network(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| {
        namespace.typ() == LinuxNamespaceType::Network && namespace.path().is_none()
    })
}

fn annotations(spec: &Spec) -> HashMap<String, String> {
    spec.annotations().clone().unwrap_or_default()
}
