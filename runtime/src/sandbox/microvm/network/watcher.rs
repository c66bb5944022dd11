//! The process that follows a container's network for as long as its machine lives: it hears from the
//! kernel what changes in the namespace, and has the guest follow.
//!
//! ```text
//!  forked ─▶ settled ─▶ catches up ─▶ waits ──changes, until they are over──▶ catches up …
//!                                       │ └──time to try again──▶ catches up
//!                                       └──the monitor ends──▶ ends
//! ```
//!
//! It holds a lock in the state folder from before its birth to its end, so that who deletes the
//! container knows when nobody changes anything any more. It has no right but that over networks, and
//! is in the container's namespace alone.
//!
//! Hostile: what the agent answers, as everywhere. A guest's frames are taken off their way before the
//! namespace's own network sees them, so that no guest makes this process do anything.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use caps::{CapSet, Capability, CapsHashSet};
use nix::libc;
use nix::sys::signal::SigSet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::{Guest, NetworkError, enter};
use crate::figures::{self, Counted, NetworkOutcome};
use crate::host::log::{self, with_causes};
use crate::host::process::ProcessIdentity;
use crate::host::sys::{self, ForkSide};
use crate::plan::network_changes::NetworkStep;
use crate::sandbox::microvm::group;
use crate::sandbox::microvm::monitor;
use crate::sandbox::microvm::record::Record;
use crate::sandbox::request::SandboxRef;

/// Held by the watcher while it lives.
const LOCK: &str = "network.lock";
/// What it is called in a list of processes.
const NAME: &std::ffi::CStr = c"cofferdam-net";
/// It ends with the monitor, and that has ended.
const END_TIMEOUT: Duration = Duration::from_secs(10);
const END_POLL: Duration = Duration::from_millis(2);

/// An engine makes an interface in several steps: they are over when nothing more has happened for so
/// long.
const QUIET: Duration = Duration::from_millis(50);
/// Changes that never end are followed all the same.
const AT_MOST: Duration = Duration::from_millis(500);
/// After how many seconds each what has failed is tried again. After that only when something changes.
const RETRY_SECONDS: [u64; 5] = [1, 2, 4, 8, 16];

/// Links, neighbours, addresses and routes of both versions of IP (`RTMGRP_*`).
const GROUPS: u32 = (libc::RTMGRP_LINK
    | libc::RTMGRP_NEIGH
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE)
    .cast_unsigned();

/// Begins to follow the network of a monitor's container, unless somebody does.
pub(in super::super) fn watch(
    sandbox: &SandboxRef,
    monitor: ProcessIdentity,
    restored: bool,
) -> Result<(), NetworkError> {
    // It leaves its folder.
    let state_folder = std::path::absolute(&sandbox.state_folder).map_err(NetworkError::Watch)?;
    let sandbox = SandboxRef { state_folder: state_folder.clone(), ..sandbox.clone() };
    let Some(guest) = Guest::of(&state_folder, monitor, restored)? else { return Ok(()) };
    let prepared = Prepared::new(&guest, monitor).map_err(NetworkError::Watch)?;
    let Some(prepared) = prepared else { return Ok(()) };
    match sys::fork().map_err(NetworkError::Watch)? {
        ForkSide::Parent(_) => Ok(()),
        ForkSide::Child => {
            let code = prepared.live(guest, sandbox);
            // Not `exit`: what the parent registered to run at its end is the parent's.
            sys::exit_now(code)
        }
    }
}

/// Waits until nobody follows the network of a container whose monitor has ended.
pub(in super::super) fn wait_for_end(state_folder: &Path) -> Result<(), NetworkError> {
    let lock = match File::open(state_folder.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(NetworkError::Watch)?,
    };
    let deadline = Instant::now() + END_TIMEOUT;
    while !take(&lock).map_err(NetworkError::Watch)? {
        if Instant::now() > deadline {
            return Err(NetworkError::Watched);
        }
        thread::sleep(END_POLL);
    }
    Ok(())
}

/// Takes a lock that nobody holds.
fn take(lock: &File) -> io::Result<bool> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// What it takes with it.
struct Prepared {
    lock: File,
    /// Readable when the monitor has ended.
    monitor: OwnedFd,
    /// Readable when something in the namespace has changed.
    changes: OwnedFd,
    log: File,
    groups: Vec<PathBuf>,
}

impl Prepared {
    /// None, if somebody follows already, or there is nothing to follow any more.
    fn new(guest: &Guest<'_>, monitor: ProcessIdentity) -> io::Result<Option<Self>> {
        let folder = guest.state_folder;
        let open = |name: &str, options: &mut OpenOptions| {
            options.create(true).mode(0o600).open(folder.join(name))
        };
        let lock = open(LOCK, OpenOptions::new().read(true).append(true))?;
        if !take(&lock)? {
            return Ok(None);
        }
        let Some(monitor) = monitor.open()? else { return Ok(None) };
        let changes = enter(&guest.namespace, || subscribe().map_err(NetworkError::Watch));
        let changes = changes.map_err(io::Error::other)?;
        let log = open(monitor::LOG, OpenOptions::new().append(true))?;
        let groups = Record::find(folder)?.map_or_else(Vec::new, |record| record.cgroups);
        Ok(Some(Self { lock, monitor, changes, log, groups }))
    }

    /// The child's whole life.
    fn live(self, guest: Guest<'_>, sandbox: SandboxRef) -> u8 {
        let Self { lock, monitor, changes, log, groups } = self;
        let kept =
            [lock.as_fd(), monitor.as_fd(), changes.as_fd(), log.as_fd(), guest.namespace.as_fd()];
        let settled = settle(&kept);
        let watcher = Watcher {
            guest,
            sandbox,
            monitor,
            changes,
            failed: Vec::new(),
            told: Vec::new(),
            retries: 0,
            retry: None,
        };
        log::to_file(log, || {
            let lived = settled.and_then(|()| watcher.confined(&groups)).and_then(Watcher::run);
            if let Err(error) = &lived {
                figures::count(Counted::Network(NetworkOutcome::Failed));
                tracing::warn!("The container's network is not followed any more: {error}");
            }
            u8::from(lived.is_err())
        })
    }
}

/// Lets go of everything of the caller's. From here on nothing that is not kept may be dropped: its
/// number is closed already.
fn settle(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    // It ends with the monitor, and by no other's word.
    SigSet::all().thread_block()?;
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    rustix::thread::set_name(NAME)?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    drop(null);
    sys::close_all_but(kept)
}

/// A socket that hears of every change in the namespace that the caller is in.
fn subscribe() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}

/// Why it is awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// Something has changed; also its own changes do that.
    Changed,
    /// To try again.
    Retry,
    /// The monitor has ended.
    Ended,
}

/// The process, once it is by itself.
struct Watcher<'a> {
    guest: Guest<'a>,
    sandbox: SandboxRef,
    monitor: OwnedFd,
    changes: OwnedFd,
    /// What was tried in vain, and is not tried again for a change that has nothing to do with it.
    failed: Vec<NetworkStep>,
    /// What the log has last.
    told: Vec<String>,
    retries: usize,
    retry: Option<Instant>,
}

impl Watcher<'_> {
    /// In the sandbox's group and the container's namespace, with the right to change the latter and
    /// no other.
    fn confined(self, groups: &[PathBuf]) -> io::Result<Self> {
        group::enter(groups, rustix::process::getpid().as_raw_nonzero().get())?;
        self.guest.namespace.stay()?;
        drop_privileges()?;
        Ok(self)
    }

    fn run(mut self) -> io::Result<()> {
        // What has changed before anybody listened.
        let mut woken = Woken::Changed;
        while woken != Woken::Ended {
            self.catch_up(woken);
            woken = self.wait()?;
        }
        Ok(())
    }

    fn catch_up(&mut self, woken: Woken) {
        let skipped = std::mem::take(&mut self.failed);
        let skipped = if woken == Woken::Changed { skipped } else { Vec::new() };
        let mut errors = Vec::new();
        match self.guest.catch_up(&skipped) {
            Ok(followed) => {
                self.failed = followed.skipped;
                for (step, done) in followed.performed {
                    self.note(step, done, &mut errors);
                }
            }
            Err(error) => {
                self.failed = skipped;
                errors.push(error);
            }
        }
        errors.extend(self.guest.serve_names(|| self.sandbox.spec()).err());
        if !self.has_ended() {
            self.report(woken, &errors);
        }
    }

    fn note(
        &mut self,
        step: NetworkStep,
        done: Result<(), NetworkError>,
        errors: &mut Vec<NetworkError>,
    ) {
        match done {
            Ok(()) => figures::count(Counted::Network(outcome(&step))),
            Err(error) => {
                errors.push(error);
                self.failed.push(step);
            }
        }
    }

    /// Says what is new of what has failed, and when it is tried again.
    fn report(&mut self, woken: Woken, errors: &[NetworkError]) {
        errors.iter().for_each(|_| figures::count(Counted::Network(NetworkOutcome::Failed)));
        if errors.is_empty() {
            if self.failed.is_empty() {
                (self.retries, self.retry) = (0, None);
                self.told.clear();
            }
            return;
        }
        let texts: Vec<_> = errors.iter().map(|error| with_causes(error)).collect();
        for text in texts.iter().filter(|text| !self.told.contains(text)) {
            tracing::warn!("A change of the container's network is not followed: {text}");
        }
        self.told = texts;
        if woken == Woken::Changed {
            self.retries = 0;
        }
        let delay = RETRY_SECONDS.get(self.retries).copied().map(Duration::from_secs);
        self.retry = delay.map(|delay| Instant::now() + delay);
        self.retries += 1;
    }

    fn wait(&mut self) -> io::Result<Woken> {
        let mut crowd: Option<Crowd> = None;
        loop {
            let now = Instant::now();
            if crowd.is_some_and(|crowd| crowd.is_over(now)) {
                return Ok(Woken::Changed);
            }
            if crowd.is_none() && self.retry.is_some_and(|retry| retry <= now) {
                self.retry = None;
                return Ok(Woken::Retry);
            }
            let until = crowd.map(Crowd::end).or(self.retry);
            let [ended, changed] = self.ready(until)?;
            if ended {
                return Ok(Woken::Ended);
            }
            if changed {
                drain(&self.changes)?;
                crowd = Some(Crowd::grown(crowd, Instant::now()));
            }
        }
    }

    /// Waits until the monitor has ended, something has changed, or a moment.
    fn ready(&self, until: Option<Instant>) -> io::Result<[bool; 2]> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut ready =
            [PollFd::new(&self.monitor, PollFlags::IN), PollFd::new(&self.changes, PollFlags::IN)];
        match poll(&mut ready, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(ready.map(|fd| !fd.revents().is_empty())),
            Err(errno) => Err(errno.into()),
        }
    }

    fn has_ended(&self) -> bool {
        self.ready(Some(Instant::now())).is_ok_and(|[ended, _]| ended)
    }
}

const fn outcome(step: &NetworkStep) -> NetworkOutcome {
    match step {
        NetworkStep::Add(_) => NetworkOutcome::Added,
        NetworkStep::Change { .. } => NetworkOutcome::Changed,
        NetworkStep::Remove(_) => NetworkOutcome::Removed,
    }
}

/// What is said is looked up anyway. Where the kernel has lost some of it, something has changed.
fn drain(changes: &OwnedFd) -> io::Result<()> {
    loop {
        match recv(changes, &mut [0; 16][..], RecvFlags::DONTWAIT) {
            Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Changes that come one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Crowd {
    first: Instant,
    last: Instant,
}

impl Crowd {
    fn grown(so_far: Option<Self>, now: Instant) -> Self {
        Self { first: so_far.map_or(now, |crowd| crowd.first), last: now }
    }

    fn end(self) -> Instant {
        (self.last + QUIET).min(self.first + AT_MOST)
    }

    fn is_over(self, now: Instant) -> bool {
        self.end() <= now
    }
}

/// Keeps the right over networks, which is one over the container's only: it can enter no other.
fn drop_privileges() -> io::Result<()> {
    let drop = || -> Result<(), caps::errors::CapsError> {
        let kept = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
        caps::clear(None, CapSet::Ambient)?;
        caps::clear(None, CapSet::Inheritable)?;
        caps::set(None, CapSet::Effective, &kept)?;
        caps::set(None, CapSet::Permitted, &kept)
    };
    drop().map_err(io::Error::other)?;
    Ok(rustix::thread::set_no_new_privs(true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_over_when_it_has_been_quiet_or_they_have_gone_on_for_long() {
        let first = Instant::now();
        let begun = Crowd::grown(None, first);
        assert!(!begun.is_over(first + QUIET / 2) && begun.is_over(first + QUIET));
        let grown = Crowd::grown(Some(begun), first + QUIET / 2);
        assert!(!grown.is_over(first + QUIET));
        assert_eq!(grown.end(), first + QUIET / 2 + QUIET);
        let endless = Crowd::grown(Some(grown), first + AT_MOST - QUIET / 2);
        assert_eq!(endless.end(), first + AT_MOST);
    }

    #[test]
    fn who_deletes_waits_until_the_watcher_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        wait_for_end(folder.path()).unwrap();
        let lock = File::create(folder.path().join(LOCK)).unwrap();
        assert!(take(&lock).unwrap());
        let ends = Instant::now() + Duration::from_millis(50);
        let watcher = thread::spawn(move || {
            thread::sleep(ends.saturating_duration_since(Instant::now()));
            drop(lock);
        });
        wait_for_end(folder.path()).unwrap();
        assert!(Instant::now() >= ends);
        watcher.join().unwrap();
    }

    #[test]
    fn a_change_of_an_address_is_heard() {
        let socket = subscribe().unwrap();
        let mut ready = [PollFd::new(&socket, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(poll(&mut ready, Some(&now)).unwrap(), 0);
        drain(&socket).unwrap();
    }
}
