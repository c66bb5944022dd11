//! The agent's acts on containers, whoever asks for them.
//!
//! ```text
//!            create            start              init ends
//!  (nothing) ──────▶ created ─────────▶ running ───────────▶ (nothing)
//!            a failure leaves nothing     exec: one more process
//! ```
//! The kernel ends a container's other processes with its init where the pid namespace is its own. Where
//! it is its pod's the agent does, by the container's cgroup.
//!
//! What this is not: it decides nothing. Plans come from the host and are executed.

use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cofferdam_protocol::agent::ProcessEntry;
use cofferdam_protocol::id::{ContainerId, ProcessToken};
use cofferdam_protocol::lifeline::LifelineFrame;
use cofferdam_protocol::plan::{ContainerPlan, ProcessPlan};
use cofferdam_protocol::stream::{StreamHeader, TerminalSize};
use nix::sched::CloneFlags;
use tokio::sync::{mpsc, oneshot, watch};

use crate::birth::{Birth, Stage};
use crate::caches;
use crate::cgroup::{self, Cgroup};
use crate::changes;
use crate::inside::channel;
use crate::inside::container::{self, ContainerInit};
use crate::inside::failure::{StartError, Step};
use crate::inside::newcomer::Newcomer;
use crate::inside::{identity, users};
use crate::layout::Layout;
use crate::listing;
use crate::process::{Exit, Process};
use crate::reaper::Reaper;
use crate::stdio;
use crate::streams::{Connection, Streams};
use crate::sys;
use crate::table::{Container, Table};

/// How long the end of a container waits for the output of its other processes.
const OTHERS_DRAIN: Duration = Duration::from_secs(2);

/// Turns of the scheduler in which an answer goes from the one who knows it into its connection.
const ANSWER_ROUNDS: u32 = 8;

/// Why a request could not be served.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no such container.
    #[error("There is no container {0}")]
    NoContainer(ContainerId),
    /// There is no such process.
    #[error("There is no process {0}")]
    NoProcess(ProcessToken),
    /// The name or the token is taken.
    #[error("The container {0} or its process exists")]
    Exists(ContainerId),
    /// Only a created container can be started.
    #[error("The container {0} was started before")]
    Started(ContainerId),
    /// The program could not be made to run.
    #[error("The program could not be started")]
    Start(#[source] StartError),
    /// The kernel refused.
    #[error("The kernel refused")]
    Kernel(#[source] io::Error),
}

impl From<StartError> for RequestError {
    fn from(error: StartError) -> Self {
        Self::Start(error)
    }
}

/// The agent.
#[derive(Clone, Debug)]
pub struct Agent {
    layout: Arc<Layout>,
    reaper: Reaper,
    lifeline: mpsc::UnboundedSender<LifelineFrame>,
    table: Arc<Mutex<Table>>,
}

impl Agent {
    /// An agent without containers. What ends is told to `lifeline`.
    #[must_use]
    pub fn new(
        layout: Layout,
        reaper: Reaper,
        lifeline: mpsc::UnboundedSender<LifelineFrame>,
    ) -> Self {
        Self { layout: Arc::new(layout), reaper, lifeline, table: Arc::default() }
    }

    /// Has the kernel forget the files that nobody uses.
    pub(crate) fn forget_files(&self) -> io::Result<()> {
        caches::forget_files(&self.layout)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a container up to the point just before its program runs.
    ///
    /// # Errors
    /// Then nothing of it is left.
    pub async fn create(
        &self,
        id: &ContainerId,
        token: ProcessToken,
        plan: &ContainerPlan,
    ) -> Result<(), RequestError> {
        if self.table().containers.contains_key(id) || self.table().knows(token) {
            return Err(RequestError::Exists(id.clone()));
        }
        let sandbox = self.sandbox_of(plan)?;
        let cgroup = Cgroup::create(&self.layout.cgroups, id.as_str(), &plan.cgroup)?;
        let made = self.create_in(&cgroup, sandbox.as_deref(), plan).await;
        let registered = made.and_then(|birth| {
            let (process, channel, exit) = birth.into_process(id.clone(), token)?;
            Ok((Arc::new(process), channel, exit))
        });
        match registered {
            Ok((init, channel, exit)) => {
                let cgroup = Arc::new(cgroup);
                let mut table = self.table();
                table.add(Arc::clone(&init));
                let container = Container {
                    cgroup: Arc::clone(&cgroup),
                    init: Arc::clone(&init),
                    start: Some(channel),
                };
                table.containers.insert(id.clone(), container);
                drop(table);
                tokio::spawn(self.clone().outlive_container(init, exit, cgroup));
                Ok(())
            }
            Err(error) => {
                // The error that matters is the first.
                let _ = cgroup.remove().await;
                Err(error.into())
            }
        }
    }

    /// The first process of the container that another one joins.
    fn sandbox_of(&self, plan: &ContainerPlan) -> Result<Option<Arc<Process>>, RequestError> {
        let Some(pod) = &plan.pod else { return Ok(None) };
        let table = self.table();
        let sandbox = table.containers.get(&pod.sandbox);
        let sandbox = sandbox.ok_or_else(|| RequestError::NoContainer(pod.sandbox.clone()))?;
        Ok(Some(Arc::clone(&sandbox.init)))
    }

    async fn create_in(
        &self,
        cgroup: &Cgroup,
        sandbox: Option<&Process>,
        plan: &ContainerPlan,
    ) -> Result<Birth, StartError> {
        let step = || "starting the container's first process".to_owned();
        let (ours, theirs) = stdio::pipes(plan.process.stdio).step(step)?;
        users::prepare(plan, &theirs)?;
        changes::enter_shares(&self.layout, plan);
        let (agent_end, child_end) = channel::pair().step(step)?;
        let layout = &self.layout;
        let sandbox = sandbox.map(AsFd::as_fd);
        let init = ContainerInit { plan, layout, streams: theirs, sandbox, channel: child_end };
        let namespaces = container::namespaces(plan);
        let spawn = || sys::spawn(namespaces, cgroup.as_fd(), || init.run());
        let shares_processes = plan.pod.as_ref().is_some_and(|pod| pod.pid);
        let child = match sandbox.filter(|_| shares_processes) {
            Some(sandbox) => among_processes_of(sandbox, spawn),
            None => spawn(),
        };
        let child = child.step(step)?;
        let exit = self.reaper.watch(child.pid);
        let mut birth = Birth::new(child, exit, agent_end, ours);
        match make_ready(&mut birth, cgroup, plan).await {
            Ok(()) => Ok(birth),
            Err(error) => {
                birth.undo().await;
                Err(error)
            }
        }
    }

    /// Lets a created container's program run.
    ///
    /// # Errors
    /// When the program cannot run, the container ends.
    pub async fn start(&self, id: &ContainerId) -> Result<(), RequestError> {
        let channel = match self.table().containers.entry(id.clone()) {
            Entry::Occupied(mut container) => container.get_mut().start.take(),
            Entry::Vacant(_) => return Err(RequestError::NoContainer(id.clone())),
        };
        let channel = channel.ok_or_else(|| RequestError::Started(id.clone()))?;
        let step = || "starting the program".to_owned();
        channel.start().await.step(step)?;
        Ok(crate::birth::follow_to(&channel, Stage::Executing, &mut None).await?)
    }

    /// Starts one more process in a container, in its cgroup or in `subgroup` below that. Its pid
    /// in the container's pid namespace.
    ///
    /// # Errors
    /// Then nothing of it is left.
    pub async fn exec(
        &self,
        id: &ContainerId,
        token: ProcessToken,
        plan: &ProcessPlan,
        subgroup: Option<&str>,
    ) -> Result<u32, RequestError> {
        let (init, cgroup) = match self.table().containers.get(id) {
            Some(container) => (Arc::clone(&container.init), Arc::clone(&container.cgroup)),
            None => return Err(RequestError::NoContainer(id.clone())),
        };
        if self.table().knows(token) {
            return Err(RequestError::Exists(id.clone()));
        }
        let mut birth = self.join(&init, (&cgroup, subgroup), plan)?;
        if let Err(error) = birth.reach(Stage::Executing).await {
            birth.undo().await;
            return Err(error.into());
        }
        let (process, _channel, exit) = birth.into_process(id.clone(), token)?;
        let pid = listing::inner_pid(process.pid).unwrap_or(process.pid);
        let process = Arc::new(process);
        self.table().add(Arc::clone(&process));
        tokio::spawn(self.clone().outlive(process, exit, cgroup));
        Ok(pid)
    }

    fn join(
        &self,
        init: &Process,
        (cgroup, subgroup): (&Cgroup, Option<&str>),
        plan: &ProcessPlan,
    ) -> Result<Birth, StartError> {
        let step = || match subgroup {
            Some(path) => format!("adding pid of a new process to cgroups at {path}"),
            None => "starting a process in the container".to_owned(),
        };
        let subgroup = subgroup.map(|path| cgroup.below(path)).transpose().step(step)?;
        let (ours, theirs) = stdio::pipes(plan.stdio).step(step)?;
        let (agent_end, child_end) = channel::pair().step(step)?;
        let users = users::of(init.pid)?;
        let newcomer =
            Newcomer { plan, init: init.as_fd(), users, streams: theirs, channel: child_end };
        let child = self.spawn_beside(init, cgroup, subgroup, newcomer).step(step)?;
        let exit = self.reaper.watch(child.pid);
        Ok(Birth::new(child, exit, agent_end, ours))
    }

    /// Into the container's pid namespace and the cgroup that was asked for, or else its own. Where
    /// the container has divided that, so that none of its processes may be in the group itself:
    /// into that of its init.
    fn spawn_beside(
        &self,
        init: &Process,
        cgroup: &Cgroup,
        subgroup: Option<OwnedFd>,
        newcomer: Newcomer<'_>,
    ) -> io::Result<sys::Child> {
        let mut newcomer = Some(newcomer);
        let mut child = |group: BorrowedFd<'_>| {
            sys::spawn(0, group, || match newcomer.take() {
                Some(newcomer) => newcomer.run(),
                None => sys::exit_now(1),
            })
        };
        let group = subgroup.as_ref().map_or(cgroup.as_fd(), AsFd::as_fd);
        among_processes_of(init.as_fd(), || match child(group) {
            Err(error) if subgroup.is_none() && error.raw_os_error() == Some(libc::EBUSY) => {
                cgroup::of_process(&self.layout.cgroups, init.pid)
                    .and_then(|group: OwnedFd| child(group.as_fd()))
            }
            other => other,
        })
    }

    /// Sends a signal to a process. False: it had ended.
    ///
    /// # Errors
    /// When the process never was, or the kernel refuses.
    pub fn signal(&self, token: ProcessToken, signal: u32) -> Result<bool, RequestError> {
        let table = self.table();
        match table.process(token) {
            Some(process) => process.signal(signal).map_err(RequestError::Kernel),
            None if table.remembered(token).is_some() => Ok(false),
            None => Err(RequestError::NoProcess(token)),
        }
    }

    /// Sends a signal to the first process of the container that the machine was made for. False:
    /// there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn signal_first(&self, signal: u32) -> io::Result<bool> {
        let first = self.table().process(ProcessToken::FIRST);
        first.map_or(Ok(false), |init| init.signal(signal))
    }

    /// Sends a signal to every process of a container. False: there was none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal_all(&self, id: &ContainerId, signal: u32) -> Result<bool, RequestError> {
        let cgroup = match self.table().containers.get(id) {
            Some(container) => Arc::clone(&container.cgroup),
            None => return Ok(false),
        };
        if signal == libc::SIGKILL.cast_unsigned() {
            cgroup.kill().map_err(RequestError::Kernel)?;
            return Ok(true);
        }
        let mut delivered = false;
        for pid in cgroup.processes() {
            delivered |= listing::signal_member(pid, id, signal).map_err(RequestError::Kernel)?;
        }
        Ok(delivered)
    }

    /// How a process ended, when it has.
    ///
    /// # Errors
    /// When the process never was.
    pub async fn wait(&self, token: ProcessToken) -> Result<Exit, RequestError> {
        let (process, remembered) = {
            let table = self.table();
            (table.process(token), table.remembered(token))
        };
        match (process, remembered) {
            (Some(process), _) => Ok(process.wait().await),
            (None, Some(exit)) => Ok(exit),
            (None, None) => Err(RequestError::NoProcess(token)),
        }
    }

    /// Sets the size of a process's terminal.
    ///
    /// # Errors
    /// When there is no such process, or the kernel refuses.
    pub fn resize(&self, token: ProcessToken, size: TerminalSize) -> Result<(), RequestError> {
        let process = self.table().process(token).ok_or(RequestError::NoProcess(token))?;
        process.streams.resize(size).map_err(RequestError::Kernel)
    }

    /// The processes in a container.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn processes(&self, id: &ContainerId) -> Result<Vec<ProcessEntry>, RequestError> {
        Ok(listing::entries(&self.group(id)?.processes()))
    }

    /// The containers' groups.
    pub(crate) fn groups(&self) -> Vec<(ContainerId, Arc<Cgroup>)> {
        let table = self.table();
        table.containers.iter().map(|(id, known)| (id.clone(), Arc::clone(&known.cgroup))).collect()
    }

    /// Shows every process that runs, and whether it is its container's first.
    pub(crate) fn each_process(&self, mut show: impl FnMut(&Process, bool)) {
        let table = self.table();
        for process in table.running() {
            let container = table.containers.get(&process.container);
            let is_init = container.is_some_and(|known| known.init.token == process.token);
            show(process, is_init);
        }
    }

    /// The one container has another name for the host from now on. False when there is not one.
    pub(crate) fn rename(&self, name: ContainerId) -> bool {
        self.table().rename(name)
    }

    /// The name that a container was made with.
    #[must_use]
    pub fn original_name(&self, name: ContainerId) -> ContainerId {
        self.table().original_name(name)
    }

    /// A container's group.
    pub(crate) fn group(&self, id: &ContainerId) -> Result<Arc<Cgroup>, RequestError> {
        let table = self.table();
        let container =
            table.containers.get(id).ok_or_else(|| RequestError::NoContainer(id.clone()))?;
        Ok(Arc::clone(&container.cgroup))
    }

    /// Gives a stream its connection. One that nobody waits for is closed.
    pub fn connect(&self, header: StreamHeader, connection: Connection) {
        let process = self.table().connectable(header.process);
        if let Some(process) = process {
            process.streams.connect(header.kind, connection);
        }
    }

    /// Follows a process to its end and tells of it when its output is sent.
    async fn outlive(
        self,
        process: Arc<Process>,
        exit: oneshot::Receiver<u8>,
        cgroup: Arc<Cgroup>,
    ) {
        // An error cannot be: the reaper outlives everything.
        let code = exit.await.unwrap_or(u8::MAX);
        process.streams.drain().await;
        self.tell(&process, Exit { code, oom: cgroup.oom_killed() });
        process.streams.linger().await;
    }

    /// Likewise for an init: with it goes its container.
    async fn outlive_container(
        self,
        init: Arc<Process>,
        exit: oneshot::Receiver<u8>,
        cgroup: Arc<Cgroup>,
    ) {
        let code = exit.await.unwrap_or(u8::MAX);
        let oom = cgroup.oom_killed();
        // Among a pod's processes the others outlive the first. Nobody can join them any more: that takes
        // the first's namespaces.
        let _ = cgroup.empty().await;
        self.see_off_others(&init).await;
        init.streams.drain().await;
        self.write_back();
        self.table().containers.remove(&init.container);
        self.tell(&init, Exit { code, oom });
        // What is left then is in the way of a container of the same name alone.
        let _ = cgroup.remove().await;
    }

    /// The container's other processes have been ended: those who wait for them hear of it
    /// before the host hears of the init's end, which may be the guest's.
    async fn see_off_others(&self, init: &Process) {
        let others = self.table().others(&init.container, init.token);
        if others.is_empty() {
            return;
        }
        let all = async {
            for other in others {
                other.wait().await;
            }
        };
        // Too late: output that nobody came for.
        let _ = tokio::time::timeout(OTHERS_DRAIN, all).await;
        for _ in 0..ANSWER_ROUNDS {
            tokio::task::yield_now().await;
        }
    }

    /// What the container wrote through mapped memory reaches the host's files.
    fn write_back(&self) {
        if let Ok(shares) = std::fs::File::open(&self.layout.shares) {
            // A host that does not take it cannot be made to.
            let _ = rustix::fs::syncfs(shares);
        }
    }

    fn tell(&self, process: &Process, exit: Exit) {
        self.table().remember(process.token, exit);
        process.exit.send_replace(Some(exit));
        let frame = LifelineFrame::Exit { process: process.token, code: exit.code, oom: exit.oom };
        // The lifeline is gone: so is the host.
        let _ = self.lifeline.send(frame);
    }
}

/// A process that was born, ready to be known.
impl Birth {
    fn into_process(
        self,
        container: ContainerId,
        token: ProcessToken,
    ) -> Result<(Process, channel::AgentEnd, oneshot::Receiver<u8>), StartError> {
        let (child, exit, channel, streams) = self.into_parts();
        let streams =
            Streams::new(streams).step(|| "connecting the standard streams".to_owned())?;
        let process = Process {
            token,
            container,
            pid: child.pid,
            pidfd: child.pidfd,
            streams,
            exit: watch::channel(None).0,
        };
        Ok((process, channel, exit))
    }
}

/// Has a process born into another one's pid namespace.
fn among_processes_of<T>(
    process: BorrowedFd<'_>,
    spawn: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let own = std::fs::File::open("/proc/self/ns/pid")?;
    nix::sched::setns(process, CloneFlags::CLONE_NEWPID)?;
    let made = spawn();
    // Never may the agent's next child be born into the container.
    nix::sched::setns(own, CloneFlags::CLONE_NEWPID)?;
    made
}

/// Follows a container's first process until it waits for the start.
async fn make_ready(
    birth: &mut Birth,
    cgroup: &Cgroup,
    plan: &ContainerPlan,
) -> Result<(), StartError> {
    if let Some(mapped) = &plan.user_namespace {
        users::admit(birth.pid(), mapped, &plan.process)?;
        cgroup.give_to(mapped).step(|| "giving the cgroup to the container".to_owned())?;
        birth.go_on().await?;
    }
    birth.reach(Stage::Ready).await?;
    if plan.user_namespace.is_some() {
        identity::set_limits_of(birth.pid(), &plan.process)?;
    }
    cgroup.restrict_devices(&plan.cgroup)
}
