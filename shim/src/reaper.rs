//! Whoever ends below the shim: it is the subreaper of everything that the runtime leaves behind,
//! and so the parent of every container's first process and of every detached exec.
//!
//! A process may end before anybody knows its number: as long as somebody expects one, exits that
//! nobody claims are kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::sync::oneshot;

/// What a shell adds to the number of the signal that ended a process.
const SIGNALLED: u32 = 128;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Its code, or 128 and the signal.
    pub(crate) code: u32,
    /// When it was collected.
    pub(crate) at: SystemTime,
}

/// All of the shim's children.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    children: Mutex<Children>,
}

#[derive(Debug, Default)]
struct Children {
    expectations: usize,
    unclaimed: HashMap<i32, Exit>,
    claimed: HashMap<i32, oneshot::Sender<Exit>>,
}

/// While this is there, no exit is forgotten.
#[derive(Debug)]
pub(crate) struct Expectation {
    reaper: Arc<Reaper>,
}

impl Reaper {
    /// Somebody is about to make processes.
    pub(crate) fn expect(self: &Arc<Self>) -> Expectation {
        self.children().expectations += 1;
        Expectation { reaper: self.clone() }
    }

    /// Collects everyone who has ended, on each SIGCHLD.
    pub(crate) fn collect(&self) {
        let mut children = self.children();
        while let Some((pid, code)) = next() {
            let exit = Exit { code, at: SystemTime::now() };
            match children.claimed.remove(&pid) {
                // Nobody waits any more: a verb's caller went away.
                Some(claim) => drop(claim.send(exit)),
                None if children.expectations > 0 => drop(children.unclaimed.insert(pid, exit)),
                None => {}
            }
        }
    }

    /// Sends a signal to a child that was claimed; false: it has ended. Its number is nobody else's
    /// until it is collected, which only this does.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn signal(&self, pid: i32, signal: Signal) -> nix::Result<bool> {
        if !self.children().claimed.contains_key(&pid) {
            return Ok(false);
        }
        kill(Pid::from_raw(pid), signal).map(|()| true)
    }

    fn children(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expectation {
    /// The exit of a process that was made since: it has ended, or will.
    pub(crate) fn claim(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut children = self.reaper.children();
        match children.unclaimed.remove(&pid) {
            Some(exit) => drop(sender.send(exit)),
            None => drop(children.claimed.insert(pid, sender)),
        }
        receiver
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        let mut children = self.reaper.children();
        children.expectations -= 1;
        if children.expectations == 0 {
            children.unclaimed.clear();
        }
    }
}

fn next() -> Option<(i32, u32)> {
    loop {
        return match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => Some((pid.as_raw(), code.cast_unsigned())),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                Some((pid.as_raw(), SIGNALLED + signal as u32))
            }
            // Stopped or traced: it has not ended.
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => None,
            Ok(_) | Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => None,
        };
    }
}

/// A reaper takes every child of the process: whichever test has children holds this.
#[cfg(test)]
pub(crate) static CHILDREN_OF_TESTS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    fn ended(reaper: &Reaper, mut is_over: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !is_over() {
            assert!(Instant::now() < end, "no exit was collected");
            reaper.collect();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "the reaper waits for them")]
    fn an_exit_reaches_who_claims_it_before_or_after_and_is_forgotten_where_nobody_expects_it() {
        let _alone = CHILDREN_OF_TESTS.blocking_lock();
        let reaper = Arc::new(Reaper::default());
        let child = |script: &str| {
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            i32::try_from(child.id()).unwrap()
        };
        let expectation = reaper.expect();
        let mut before = expectation.claim(child("exit 7"));
        let mut code = None;
        ended(&reaper, || {
            code = before.try_recv().ok().map(|exit| exit.code);
            code.is_some()
        });
        assert_eq!(code, Some(7));
        let mut killed = expectation.claim(child("exec sleep 1000"));
        let sleeping = *reaper.children().claimed.keys().next().unwrap();
        assert!(reaper.signal(sleeping, Signal::SIGTERM).unwrap());
        ended(&reaper, || killed.try_recv().is_ok_and(|exit| exit.code == 143));
        // Its number may be anybody's now.
        assert!(!reaper.signal(sleeping, Signal::SIGTERM).unwrap());
        let pid = child("kill -9 $$");
        ended(&reaper, || reaper.children().unclaimed.contains_key(&pid));
        assert_eq!(expectation.claim(pid).try_recv().unwrap().code, 137);
        drop(expectation);
        let pid = child("exit 1");
        ended(&reaper, || !std::path::Path::new(&format!("/proc/{pid}")).exists());
        assert!(reaper.children().unclaimed.is_empty());
    }
}
