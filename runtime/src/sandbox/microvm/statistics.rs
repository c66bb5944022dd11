//! `events`: what the container uses in its guest, and when its memory runs out there. The numbers
//! are the workload's: neither the guest's kernel nor the monitor is in them.

use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use cofferdam_protocol::boot::{ExitCause, ExitRecord};
use cofferdam_protocol::bounds::MAX_BOOT_REPORT_BYTES;
use cofferdam_protocol::frame::read_frame;
use cofferdam_protocol::id::ContainerId;

use super::agent::{self, Agent, AgentError};
use super::control::{self, ControlError};
use super::monitor::EXIT_RECORD;
use super::rpc::{CallError, Pending};
use crate::cgroup::limits::Version;
use crate::cgroup::statistics::{Statistics, V2_FILES};
use crate::sandbox::request::{SandboxRef, WatchOutcome};

/// Between two looks; a guest could have us write lines without end.
const MAX_KILLS_AT_ONCE: u64 = 64;

/// Why nothing is known of what a container uses.
#[derive(Debug, thiserror::Error)]
pub enum StatisticsError {
    /// The monitor cannot be reached.
    #[error("The container's microVM cannot be reached")]
    Control(#[source] ControlError),
    /// The guest does not say.
    #[error("The guest does not say what the container uses")]
    Agent(#[source] AgentError),
}

/// A container that is watched.
#[derive(Debug)]
pub struct Watch {
    id: ContainerId,
    agent: Agent,
    /// What it is told by.
    pending: Option<Pending>,
    /// How many processes were killed for want of memory before; unknown at first.
    kills: Option<u64>,
    /// How the sandbox ended, once it has.
    exit_record: PathBuf,
}

/// Begins to watch a container.
///
/// # Errors
/// When the guest cannot be reached.
pub fn watch(sandbox: &SandboxRef) -> Result<Watch, StatisticsError> {
    let connection = control::connect_agent(&sandbox.state_folder, agent::REQUEST_TIMEOUT)
        .map_err(StatisticsError::Control)?;
    Ok(Watch {
        id: sandbox.id.clone(),
        agent: Agent::new(connection),
        pending: None,
        kills: None,
        exit_record: sandbox.state_folder.join(EXIT_RECORD),
    })
}

impl Watch {
    /// What it uses now.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn statistics(&mut self) -> Result<Statistics, StatisticsError> {
        let files = self.agent.read_cgroup(&self.id, V2_FILES).map_err(StatisticsError::Agent)?;
        Ok(Statistics::from_files(Version::V2, &|name| files.get(name).cloned()))
    }

    /// Waits until something happens, at most this long.
    ///
    /// # Errors
    /// When what the guest says makes no sense.
    pub fn wait(&mut self, until: Instant) -> Result<WatchOutcome, StatisticsError> {
        match self.next_kills(until) {
            Ok(Some(kills)) => Ok(self.told(kills)),
            Ok(None) => Ok(WatchOutcome::Nothing),
            // The container is gone, or its guest with it.
            Err(AgentError::Call(CallError::Closed | CallError::Refused { .. })) => {
                Ok(self.ended())
            }
            Err(error) => Err(StatisticsError::Agent(error)),
        }
    }

    fn next_kills(&mut self, until: Instant) -> Result<Option<u64>, AgentError> {
        let pending = match self.pending {
            Some(pending) => pending,
            // The largest number is answered at once: with how many there were before.
            None => self.agent.ask_oom(&self.id, self.kills.unwrap_or(u64::MAX))?,
        };
        self.pending = Some(pending);
        let kills = self.agent.oom_kills(pending, until)?;
        if kills.is_some() {
            self.pending = None;
        }
        Ok(kills)
    }

    /// A guest may say anything; each line that comes of it is written by the host.
    fn told(&mut self, kills: u64) -> WatchOutcome {
        match self.kills.replace(kills) {
            Some(before) if kills > before => {
                WatchOutcome::OutOfMemory((kills - before).min(MAX_KILLS_AT_ONCE))
            }
            _ => WatchOutcome::Nothing,
        }
    }

    /// The guest that ends for want of memory may be gone before it could say so; its monitor has
    /// written it down.
    fn ended(&mut self) -> WatchOutcome {
        let record = File::open(&self.exit_record).ok();
        let record: Option<ExitRecord> =
            record.and_then(|file| read_frame(file, MAX_BOOT_REPORT_BYTES).ok());
        let out_of_memory = record.is_some_and(|record| record.cause == ExitCause::OutOfMemory);
        // Told once, and not if the guest has told it.
        match self.kills.replace(u64::MAX) {
            Some(0) | None if out_of_memory => WatchOutcome::OutOfMemory(1),
            _ => WatchOutcome::Ended,
        }
    }
}
