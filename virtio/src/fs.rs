//! The file system device (virtio 1.2, section 5.11): the guest mounts a tree of the host's.
//!
//! ```text
//!  open ─▶ FsServer ── prepare ──▶ PreparedFs ── attach ──▶ AttachedFs ── run ──▶ until stopped
//!           Send,      in the fs thread,          after the pivot:   serves the queues
//!           anywhere   /proc still visible        "/" is the tree
//! ```
//!
//! FUSE's messages are parsed by fuse-backend-rs; what they mean is done by the tree in here.
//! Caching: the guest believes names and attributes for a configured time, and what it has cached
//! of a file's content for as long as the file has not changed when it opens it again. Writes go
//! through. No DAX. What the host changes below bind mounts is told to the guest's agent.
//!
//! What this is not: a boundary. The caller puts the thread into a mount namespace in which
//! nothing but the shares exists, and takes every capability from it that serving does not need.
//!
//! Hostile: the queues and every request in them. Bounds: bytes in one request (fuse-backend-rs:
//! 1 MiB and a page), descriptors in use, requests in one go, what is watched on the host.

mod attributes;
mod caller;
mod changes;
mod crowding;
mod folder;
mod inodes;
mod privileges;
mod repeat;
mod requests;
mod restore;
mod stand_in;
mod sys;
mod table;
mod tree;
mod unnamed;
mod watches;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::Duration;

use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{Reader, VirtioFsWriter};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Resource, getrlimit};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::device::{Activation, DeviceType, VirtioDevice};
use crate::handover::{self, Giver, Order, Taker};
use crate::memory::GuestRam;
use crate::poll::{Events, Interest, Poller, Token};
use crate::queue::{BrokenQueue, DeviceQueue, FuseChain};
use crate::saved::{FsState, QueuePosition};
use crate::sys as events;
use changes::Changes;
use crowding::Crowding;
use tree::Tree;
pub use watches::Watcher;

pub use restore::{FsRestoreError, FsSaveError};

/// The tag's place in the configuration space; shorter ones are padded with zeros.
const MAX_TAG_BYTES: usize = 36;
/// High priority (what the guest forgets), then requests. A request of a MiB has 256 pages and a
/// few descriptors more, and Linux allows itself as many pages as fit into the queue.
const QUEUE_SIZES: [u16; 2] = [128, 1024];
/// Requests served before the other queue and orders get their turn.
const MAX_REQUESTS_IN_ONE_GO: usize = 64;
/// Descriptors that the rest of the monitor may need: its connections, and room to accept more.
/// Where few are allowed in all it must do with a quarter.
const RESERVED_DESCRIPTORS: u64 = 2048;
/// At least so many files must be possible, or nothing can be served.
const MIN_DESCRIPTORS: u64 = 256;

// Tokens: a queue has its index.
const ORDERS: u32 = u32::MAX;
const STOP: u32 = u32::MAX - 1;
const HOST_CHANGES: u32 = u32::MAX - 2;
const AGENT: u32 = u32::MAX - 3;

/// How a tree is shared.
#[derive(Clone, Copy, Debug)]
pub struct FsConfig {
    /// How long the guest believes a file's attributes.
    pub attribute_timeout: Duration,
    /// How long the guest believes that a name stands for a file, or for none.
    pub entry_timeout: Duration,
}

impl Default for FsConfig {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Self { attribute_timeout: second, entry_timeout: second }
    }
}

/// Why a tree cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The tag is over its bound, or empty.
    #[error("A tag has 1 to {MAX_TAG_BYTES} bytes")]
    Tag,
    /// No event descriptor.
    #[error("No event descriptor could be made")]
    Event(#[source] io::Error),
    /// The thread could not be given a working directory of its own.
    #[error("The thread could not leave the process's working directory")]
    Unshare(#[source] io::Error),
    /// `/proc/self/fd` is not there.
    #[error("/proc/self/fd could not be opened")]
    ProcSelfFd(#[source] io::Error),
    /// The root of the tree.
    #[error("The root of the shares could not be opened")]
    Root(#[source] io::Error),
    /// Fewer descriptors than any guest needs.
    #[error("{0} descriptors are allowed to this process: too few to serve files")]
    FewDescriptors(u64),
    /// The thread's identity could not be read.
    #[error("The state of the server could not be set up")]
    SetUp(#[source] io::Error),
    /// A snapshot's files.
    #[error("The files that the guest had open are not found again")]
    Restore(#[from] FsRestoreError),
    /// Waiting failed.
    #[error("The server cannot wait for requests")]
    Wait(#[source] io::Error),
}

/// The transport's half.
#[derive(Debug)]
pub struct FsDevice {
    worker: Giver,
    config: [u8; MAX_TAG_BYTES + 4],
}

/// The server, before its thread is confined.
#[derive(Debug)]
pub struct FsServer {
    orders: Taker,
    stop: EventFd,
    config: FsConfig,
    saves: (Sender<SaveRequest>, Receiver<SaveRequest>),
    restored: Option<FsState>,
    changes: Option<Changes>,
    crowded: OwnedFd,
}

/// Somebody wants to know what the server has to write down, and waits here.
type SaveRequest = SyncSender<Result<Saved, FsSaveError>>;
/// What the guest knows, and how far each queue is served, when the device is in service.
type Saved = (FsState, Vec<QueuePosition>);

/// Asks the server what is to be written down of it, from another thread.
#[derive(Debug)]
pub struct FsSaver {
    requests: Sender<SaveRequest>,
    wake: EventFd,
}

impl FsSaver {
    /// What the guest knows of its files, and how far each queue is served. Waits for the server's
    /// thread, so long at most.
    ///
    /// # Errors
    /// When it cannot be written down, or nobody answers.
    pub fn save(&self, patience: Duration) -> Result<Saved, FsSaveError> {
        let (sender, answer) = mpsc::sync_channel(1);
        self.requests.send(sender).map_err(|_| FsSaveError::Silent)?;
        self.wake.write(1).map_err(FsSaveError::Look)?;
        answer.recv_timeout(patience).map_err(|_| FsSaveError::Silent)?
    }
}

/// The server, with what it needs from outside its confinement.
#[derive(Debug)]
pub struct PreparedFs {
    server: FsServer,
    descriptors: OwnedFd,
}

/// The server, ready to serve.
pub struct AttachedFs {
    orders: Taker,
    saves: Receiver<SaveRequest>,
    /// Open as long as the poller waits for it.
    _stop: EventFd,
    server: Server<Arc<Tree>>,
    tree: Arc<Tree>,
    crowding: Crowding,
    poller: Poller,
    active: Option<Box<Activation>>,
}

impl std::fmt::Debug for AttachedFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AttachedFs").field("active", &self.active.is_some()).finish_non_exhaustive()
    }
}

/// A file system device that the guest finds by `tag`, and its server.
///
/// # Errors
/// When the tag does not fit, or the system has no descriptor left.
pub fn open(tag: &str, config: FsConfig) -> Result<(FsDevice, FsServer), FsError> {
    if tag.is_empty() || tag.len() > MAX_TAG_BYTES {
        return Err(FsError::Tag);
    }
    let mut space = [0; MAX_TAG_BYTES + 4];
    space[..tag.len()].copy_from_slice(tag.as_bytes());
    // One request queue.
    space[MAX_TAG_BYTES..].copy_from_slice(&1u32.to_le_bytes());
    let (worker, orders) = handover::pair().map_err(FsError::Event)?;
    let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(FsError::Event)?;
    let crowded = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let crowded = crowded.map_err(|error| FsError::Event(error.into()))?;
    let saves = mpsc::channel();
    let server = FsServer { orders, stop, config, saves, restored: None, changes: None, crowded };
    Ok((FsDevice { worker, config: space }, server))
}

impl VirtioDevice for FsDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Fs
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, activation: Activation) -> bool {
        self.worker.activate(activation)
    }

    fn reset(&mut self) {
        self.worker.reset();
    }
}

impl FsServer {
    /// An event that ends [`AttachedFs::run`].
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn stop_event(&self) -> io::Result<EventFd> {
        self.stop.try_clone()
    }

    /// An event that is raised when the guest should forget files, before it meets the bound of
    /// how many can be open for it.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn crowded_event(&self) -> io::Result<OwnedFd> {
        self.crowded.try_clone()
    }

    /// The way to save what the server knows.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn saver(&self) -> io::Result<FsSaver> {
        Ok(FsSaver { requests: self.saves.0.clone(), wake: self.orders.event().try_clone()? })
    }

    /// The guest knows files already: those of a machine that was saved.
    pub fn restore(&mut self, state: FsState) {
        self.restored = Some(state);
    }

    /// Tells an agent at the other end of `agent`, a stream, of what the host changes below the
    /// bind mounts. The watcher must run in a thread of its own.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn follow_host(&mut self, agent: OwnedFd) -> io::Result<Watcher> {
        rustix::io::ioctl_fionbio(&agent, true)?;
        let (watches, watcher) = watches::pair()?;
        self.changes = Some(Changes::new(watches, agent));
        Ok(watcher)
    }

    /// Takes hold of `/proc/self/fd`, in the thread that will serve, while it can be seen. The
    /// thread gets a working directory and a file mode mask of its own.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn prepare(self) -> Result<PreparedFs, FsError> {
        sys::unshare_working_directory().map_err(FsError::Unshare)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptors = openat(CWD, c"/proc/self/fd", flags, Mode::empty())
            .map_err(|error| FsError::ProcSelfFd(error.into()))?;
        Ok(PreparedFs { server: self, descriptors })
    }
}

impl PreparedFs {
    /// Makes the thread's root folder the tree that is shared. To be called in the thread that
    /// will serve, in its own mount namespace, with its final capabilities.
    ///
    /// # Errors
    /// When the root cannot be opened or too few descriptors are allowed.
    pub fn attach(self) -> Result<AttachedFs, FsError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, c"/", flags, Mode::empty());
        self.attach_at(root.map_err(|error| FsError::Root(error.into()))?)
    }

    fn attach_at(self, root: OwnedFd) -> Result<AttachedFs, FsError> {
        let Self { server, descriptors } = self;
        let FsServer { orders, stop, config, saves: (_, saves), restored, changes, crowded } =
            server;
        let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let room = allowed - RESERVED_DESCRIPTORS.min(allowed / 4);
        if room < MIN_DESCRIPTORS {
            return Err(FsError::FewDescriptors(allowed));
        }
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        // Extended attributes are reached by names in this folder; modes are the guest's.
        rustix::process::fchdir(&descriptors).map_err(|error| FsError::SetUp(error.into()))?;
        rustix::process::umask(Mode::empty());
        let tree = Tree::new(config, descriptors, root, room, changes).map_err(FsError::SetUp)?;
        if let Some(state) = &restored {
            tree.restore(state)?;
        }
        let tree = Arc::new(tree);
        let poller = Poller::open().map_err(FsError::Event)?;
        for (index, event) in [(ORDERS, orders.event()), (STOP, &stop)] {
            let token = Token { owner: 0, index };
            poller.add(events::borrow(event), token, Interest::READ).map_err(FsError::Event)?;
        }
        watch_changes(&poller, &tree).map_err(FsError::Event)?;
        let server = Server::new(Arc::clone(&tree));
        let crowding = Crowding::new(crowded, room);
        Ok(AttachedFs { orders, saves, _stop: stop, server, tree, crowding, poller, active: None })
    }
}

impl AttachedFs {
    /// Serves until the stop event is raised.
    ///
    /// # Errors
    /// Only when the thread cannot wait: what a guest does wrong ends its request or its device.
    pub fn run(mut self) -> Result<(), FsError> {
        let mut ready = Events::new();
        loop {
            let mut orders = false;
            for (token, _) in self.poller.wait(&mut ready, None).map_err(FsError::Wait)? {
                match token.index {
                    STOP => return Ok(()),
                    ORDERS => orders = true,
                    HOST_CHANGES => self.tree.tell(),
                    AGENT => self.tree.listen(),
                    queue => self.count_notification(queue),
                }
            }
            if orders {
                self.take_orders();
            }
            self.turn();
        }
    }

    /// Serves what there is, and says what was heard of the host meanwhile: each request takes the events of
    /// the host that came before its own, and nobody is woken for these any more.
    fn turn(&mut self) {
        self.serve();
        self.tree.tell_heard();
        self.crowding.look(self.tree.state().used());
    }

    fn count_notification(&self, queue: u32) {
        let queues = self.active.as_ref().map(|active| &active.queues);
        if let Some(queue) = queues.and_then(|queues| queues.get(queue as usize)) {
            queue.count_notification();
        }
    }

    fn take_orders(&mut self) {
        while let Some(order) = self.orders.take() {
            self.obey(order);
        }
        // Between two requests, as everything that is done here.
        while let Ok(asked) = self.saves.try_recv() {
            // Who does not wait any more needs no answer.
            let _ = asked.send(self.tree.save().map(|state| (state, self.positions())));
        }
    }

    fn positions(&self) -> Vec<QueuePosition> {
        let queues = self.active.iter().flat_map(|active| &active.queues);
        queues.map(DeviceQueue::position).collect()
    }

    /// What [`Self::run`] does between two waits.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn step(&mut self) {
        self.take_orders();
        self.tree.listen();
        self.turn();
    }

    /// As after a machine was restored.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn restore_files(&self, state: &FsState) -> Result<(), FsRestoreError> {
        self.tree.restore(state)
    }

    /// What a save would give.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn save_files(&self) -> Result<FsState, FsSaveError> {
        self.tree.save()
    }

    fn obey(&mut self, order: Order) {
        self.release();
        match order {
            Order::Activate(activation) => match self.register(&activation) {
                Ok(()) => self.active = Some(activation),
                Err(error) => {
                    tracing::warn!(%error, "the fs device's queues cannot be watched");
                    activation.interrupt.needs_reset();
                }
            },
            Order::Reset(acknowledgement) => drop(acknowledgement),
        }
    }

    fn register(&self, activation: &Activation) -> io::Result<()> {
        for (index, queue) in (0..).zip(&activation.queues) {
            let token = Token { owner: 0, index };
            // Told once for each notification: it need not be read.
            let event = events::borrow(queue.notification());
            self.poller.add(event, token, Interest::READ_EDGE)?;
        }
        Ok(())
    }

    fn release(&mut self) {
        let Some(active) = self.active.take() else { return };
        for queue in &active.queues {
            // Registered when it was activated.
            let _ = self.poller.remove(events::borrow(queue.notification()));
        }
        if let Err(error) = self.tree.forget_all() {
            tracing::warn!(%error, "the file server could not forget what the guest knew");
        }
    }

    fn serve(&mut self) {
        let Some(active) = &mut self.active else { return };
        let Activation { memory, queues, interrupt, .. } = &mut **active;
        let mut wanted = false;
        for queue in queues {
            match serve_queue(&self.server, &self.tree, queue, memory) {
                Ok(interrupt) => wanted |= interrupt,
                Err(error) => {
                    tracing::warn!(%error, "the fs device stops until the driver resets it");
                    interrupt.needs_reset();
                    return self.release();
                }
            }
        }
        if wanted {
            interrupt.used_buffer();
        }
    }
}

/// What the host changes, and what the agent says of it.
fn watch_changes(poller: &Poller, tree: &Tree) -> io::Result<()> {
    let state = tree.state();
    let Some(changes) = &state.changes else { return Ok(()) };
    let token = |index| Token { owner: 0, index };
    poller.add(changes.events(), token(HOST_CHANGES), Interest::READ)?;
    changes.guest().map_or(Ok(()), |guest| poller.add(guest, token(AGENT), Interest::READ))
}

/// Serves what is in a queue; true when the driver wants to hear of it.
fn serve_queue(
    server: &Server<Arc<Tree>>,
    tree: &Tree,
    queue: &mut DeviceQueue,
    memory: &GuestRam,
) -> Result<bool, BrokenQueue> {
    let mut served = 0;
    while served < MAX_REQUESTS_IN_ONE_GO {
        if let Some(chain) = queue.pop_for_fuse(memory)? {
            let head = chain.head_index();
            let (read, written) = answer(server, tree, chain, memory);
            queue.count_read(read);
            queue.push(memory, head, written)?;
            served += 1;
        } else if !queue.rearm(memory)? {
            break;
        }
    }
    if served == MAX_REQUESTS_IN_ONE_GO {
        queue.call_again();
    }
    Ok(served > 0 && queue.wants_interrupt(memory)?)
}

/// Answers one request, and says how long it and its answer are. One that is no request gets none.
fn answer(
    server: &Server<Arc<Tree>>,
    tree: &Tree,
    chain: FuseChain<'_>,
    memory: &GuestRam,
) -> (usize, u32) {
    let is_unnamed = unnamed::is_wanted(&chain, memory);
    let (Ok(request), Ok(mut answer)) =
        (Reader::from_descriptor_chain(memory, chain.clone()), VirtioFsWriter::new(memory, chain))
    else {
        return (0, 0);
    };
    let read = request.available_bytes();
    let written = if is_unnamed {
        unnamed::answer(tree, request, &mut answer).unwrap_or(0)
    } else {
        server.handle_message(request, answer.into(), None, None).unwrap_or(0)
    };
    (read, u32::try_from(written).unwrap_or(0))
}

/// A device and a server in the calling thread, over a folder rather than the thread's root.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn serving(folder: &std::path::Path) -> Result<(FsDevice, AttachedFs), FsError> {
    let (device, server) = open("tag", FsConfig::default())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, folder, flags, Mode::empty());
    let root = root.map_err(|error| FsError::Root(error.into()))?;
    Ok((device, server.prepare()?.attach_at(root)?))
}

#[cfg(test)]
mod tests;
