//! `events`: what the container uses, and when its memory runs out.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::record::{NoGroups, Record};
use crate::cgroup::Groups;
use crate::cgroup::oom::OomWatch;
use crate::cgroup::statistics::Statistics;
use crate::host::process;
use crate::sandbox::request::{SandboxRef, WatchOutcome};

/// Why nothing is known of what a container uses.
#[derive(Debug, thiserror::Error)]
pub enum StatisticsError {
    /// `create` did not finish, or the state folder was changed.
    #[error("The record of the container cannot be read")]
    Record(#[source] io::Error),
    /// No control group.
    #[error(transparent)]
    NoGroups(#[from] NoGroups),
    /// The container's first process is not there.
    #[error("The container does not run")]
    NotRunning,
    /// The kernel does not tell.
    #[error("The container cannot be watched")]
    Watch(#[source] io::Error),
}

/// Watches a container.
#[derive(Debug)]
pub struct Watch {
    record: Record,
    /// Readable when its first process has ended.
    end: OwnedFd,
    /// Absent where no memory is accounted for.
    oom: Option<OomWatch>,
}

/// Begins to watch a container.
///
/// # Errors
/// When it does not run.
pub fn watch(sandbox: &SandboxRef) -> Result<Watch, StatisticsError> {
    let record = Record::load(&sandbox.state_folder).map_err(StatisticsError::Record)?;
    record.groups()?;
    let process = sandbox.process.ok_or(StatisticsError::NotRunning)?;
    let end = process::open_pidfd(process.pid).map_err(StatisticsError::Watch)?;
    // From here on the number cannot change its owner unnoticed.
    if !process.is_alive() {
        return Err(StatisticsError::NotRunning);
    }
    let oom = match OomWatch::open(Groups::new(&record.cgroups)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.map_err(StatisticsError::Watch)?),
    };
    Ok(Watch { record, end, oom })
}

impl Watch {
    /// What it uses now.
    ///
    /// # Errors
    /// None: what is not accounted for is zero.
    pub fn statistics(&mut self) -> Result<Statistics, StatisticsError> {
        let groups = Groups::new(&self.record.cgroups);
        Ok(Statistics::from_files(groups.version(), &|name| groups.read(name).ok()))
    }

    /// Waits until something happens, at most this long.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn wait(&mut self, until: Instant) -> Result<WatchOutcome, StatisticsError> {
        let ended = self.poll(until).map_err(|error| StatisticsError::Watch(error.into()))?;
        match self.oom.as_mut().map_or(0, OomWatch::take) {
            0 if ended => Ok(WatchOutcome::Ended),
            0 => Ok(WatchOutcome::Nothing),
            times => Ok(WatchOutcome::OutOfMemory(times)),
        }
    }

    /// Whether it has ended.
    fn poll(&self, until: Instant) -> Result<bool, Errno> {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let mut descriptors = vec![PollFd::new(&self.end, PollFlags::IN)];
        let oom = self.oom.as_ref().map(OomWatch::wake);
        descriptors
            .extend(oom.iter().map(|wake| PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN)));
        match rustix::event::poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        Ok(descriptors.first().is_some_and(|end| !end.revents().is_empty()))
    }
}
