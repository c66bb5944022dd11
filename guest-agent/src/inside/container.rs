//! The first process of a container: it makes the container around itself.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use cofferdam_protocol::plan::{ContainerPlan, StdioPlan};
use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::UnmountFlags;
use rustix::process::DumpableBehavior;

use super::channel::ChildEnd;
use super::failure::{StartError, Step};
use super::program::Program;
use super::root::{Kind, Root};
use super::{devices, hidden, hooks, identity, mounts, terminal, time, users};
use crate::layout::Layout;
use crate::stdio::ChildStreams;
use crate::sys;

/// Namespaces that the process is born into; its cgroup namespace comes when it is in its cgroup.
const NAMESPACES: sys::CloneFlags =
    libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;

/// How many open files Linux allows its first process: what a container gets whose plan says
/// nothing, instead of the agent's own limit.
const KERNEL_DESCRIPTORS: (u64, u64) = (1024, 4096);

/// What the process is made from.
#[derive(Debug)]
pub(crate) struct ContainerInit<'a> {
    /// The container.
    pub(crate) plan: &'a ContainerPlan,
    /// Where the agent keeps things.
    pub(crate) layout: &'a Layout,
    /// Its standard streams.
    pub(crate) streams: ChildStreams,
    /// The first process of the container whose namespaces it joins.
    pub(crate) sandbox: Option<BorrowedFd<'a>>,
    /// The wire to the agent.
    pub(crate) channel: ChildEnd,
}

/// Namespaces that a container's first process is born into: not those that it joins.
pub(crate) fn namespaces(plan: &ContainerPlan) -> sys::CloneFlags {
    NAMESPACES & !joined(plan).bits() | users::namespace(plan)
}

/// Namespaces that a container has of another.
fn joined(plan: &ContainerPlan) -> CloneFlags {
    let mut joined = CloneFlags::empty();
    if let Some(pod) = &plan.pod {
        joined.set(CloneFlags::CLONE_NEWIPC, pod.ipc);
        joined.set(CloneFlags::CLONE_NEWUTS, pod.uts);
        joined.set(CloneFlags::CLONE_NEWPID, pod.pid);
    }
    joined
}

impl ContainerInit<'_> {
    /// Makes the container, waits for its start, and becomes its program.
    pub(crate) fn run(self) -> Infallible {
        let error = match self.make().and_then(|program| self.start(&program)) {
            Ok(gave_up) => gave_up,
            Err(error) => Some(error),
        };
        if let Some(error) = error {
            self.channel.failed(&error);
        }
        sys::exit_now(1)
    }

    fn make(&self) -> Result<Program, StartError> {
        let sandbox = self.sandbox.map(|process| process.as_raw_fd());
        let needed: Vec<RawFd> = sandbox.into_iter().chain([self.channel.raw()]).collect();
        begin(&self.streams, &needed)?;
        self.join_pod()?;
        match self.plan.user_namespace {
            Some(_) => self.enter_users()?,
            None => identity::set_oom_score(&self.plan.process)?,
        }
        let namespace = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP);
        namespace.step(|| "making the cgroup namespace".to_owned())?;
        time::unshare(self.plan.time_offsets.as_deref())?;
        self.make_root()?;
        self.set_names()?;
        if self.plan.user_namespace.is_none() {
            identity::set_limits(&self.plan.process)?;
        }
        identity::assume(&self.plan.process)?;
        Program::find(&self.plan.process)
    }

    fn join_pod(&self) -> Result<(), StartError> {
        // It was born among the pod's processes.
        let joined = joined(self.plan) - CloneFlags::CLONE_NEWPID;
        match self.sandbox {
            Some(sandbox) if !joined.is_empty() => nix::sched::setns(sandbox, joined)
                .step(|| "joining the namespaces of the pod".to_owned()),
            _ => Ok(()),
        }
    }

    /// The process was born into a user namespace that owns the others. The agent maps its users,
    /// and does what takes privileges outside of it: see [`users::admit`].
    fn enter_users(&self) -> Result<(), StartError> {
        let admitted = self.channel.wait().step(|| "waiting for the users to be mapped".to_owned());
        if !admitted? {
            // The agent is gone, or has an error of its own to tell.
            sys::exit_now(1)
        }
        users::become_root()
    }

    /// None: the agent gave up before the start.
    fn start(&self, program: &Program) -> Result<Option<StartError>, StartError> {
        sys::end_by_signals();
        let started = self.channel.ready_and_wait();
        if !started.step(|| "waiting for the start".to_owned())? {
            return Ok(None);
        }
        // The hooks are programs of the container as well: no less confined than its own.
        identity::assume_last(&self.plan.process)?;
        hooks::run_all(&self.plan.start_hooks, program.environment(), &self.plan.hook_state)?;
        self.channel.executing().step(|| "starting the program".to_owned())?;
        Ok(Some(program.execute()))
    }

    fn make_root(&self) -> Result<(), StartError> {
        let plan = self.plan;
        let root = self.mount_root()?;
        let shares = Root::open(&self.layout.shares_of(plan));
        let shares = shares.step(|| "opening the shares".to_owned())?;
        mounts::make_all(&root, shares.as_fd(), &plan.mounts)?;
        devices::make_nodes(&root, &plan.devices)?;
        devices::make_links(&root, &plan.symlinks)?;
        if let StdioPlan::Terminal { rows, columns, keep_line_feeds } = plan.process.stdio {
            let slave = terminal::connect(&root, (rows, columns), keep_line_feeds, &self.channel)?;
            terminal::bind_console(&root, slave.as_fd())?;
        }
        let folder = root.find_or_make(&plan.process.cwd, Kind::Folder);
        folder.step(|| format!("making the working folder {}", plan.process.cwd))?;
        hidden::set_parameters(
            plan.sysctl.iter().filter(|(key, _)| !users::sets_outside(plan, key)),
        )?;
        mounts::finish(&root, &plan.mounts)?;
        hidden::make_readonly(&root, &plan.readonly_paths)?;
        hidden::mask(&root, &plan.masked_paths)?;
        if plan.rootfs_readonly {
            mounts::set_readonly(root.as_fd()).step(|| "making the root read-only".to_owned())?;
        }
        pivot(&root)?;
        propagate(plan)
    }

    /// The root share, as a mount of its own that nothing propagates out of.
    fn mount_root(&self) -> Result<Root, StartError> {
        let name = match &self.plan.pod {
            Some(pod) => pod.place.root(),
            None => self.plan.rootfs_share.to_string(),
        };
        let step = || format!("mounting the root from share {name}");
        let all = Root::open("/").step(step)?;
        mounts::set_propagation(all.as_fd(), libc::MS_PRIVATE | libc::MS_REC).step(step)?;
        let shares = Root::open(&self.layout.shares).step(step)?;
        let tree = mounts::clone_tree(shares.as_fd(), &name, true);
        let tree = tree.step(step)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let point = rustix::fs::openat(CWD, &*self.layout.scratch, flags, Mode::empty());
        mounts::attach(tree.as_fd(), point.step(step)?.as_fd()).step(step)?;
        Root::open(&self.layout.scratch).step(step)
    }

    fn set_names(&self) -> Result<(), StartError> {
        if let Some(name) = &self.plan.hostname {
            rustix::system::sethostname(name.as_bytes())
                .step(|| format!("setting the host name {name}"))?;
        }
        if let Some(name) = &self.plan.domainname {
            rustix::system::setdomainname(name.as_bytes())
                .step(|| format!("setting the domain name {name}"))?;
        }
        Ok(())
    }
}

/// What every new process does first: it keeps nothing of the agent's but what it needs.
pub(crate) fn begin(streams: &ChildStreams, needed: &[RawFd]) -> Result<(), StartError> {
    let step = || "preparing the process".to_owned();
    sys::reset_signals();
    rustix::process::umask(Mode::empty());
    // What is still in its memory is not for other processes of the container to read.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step(step)?;
    rustix::process::setsid().step(step)?;
    streams.become_standard().step(step)?;
    let (soft, hard) = KERNEL_DESCRIPTORS;
    sys::set_resource_limit(sys::OPEN_FILES, soft, hard).step(step)?;
    sys::close_all_but(&mut needed.to_vec()).step(step)
}

/// Makes the new root the only one in this mount namespace.
fn pivot(root: &Root) -> Result<(), StartError> {
    let step = || "changing the root".to_owned();
    let old: OwnedFd = {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, "/", flags, Mode::empty()).step(step)?
    };
    rustix::process::fchdir(root).step(step)?;
    // Both at one place: the old root is then on top of the new one, and is taken away.
    rustix::process::pivot_root(".", ".").step(step)?;
    rustix::process::fchdir(&old).step(step)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step(step)?;
    rustix::process::chdir("/").step(step)
}

/// The root's propagation, which may be the whole tree's: a root that is shared cannot be changed
/// to. The mounts that have one of their own get it again.
fn propagate(plan: &ContainerPlan) -> Result<(), StartError> {
    if plan.rootfs_propagation == 0 {
        return Ok(());
    }
    let step = || "setting the root's propagation".to_owned();
    let root = Root::open("/").step(step)?;
    mounts::set_propagation(root.as_fd(), plan.rootfs_propagation).step(step)?;
    mounts::propagate_all(&root, &plan.mounts)
}
