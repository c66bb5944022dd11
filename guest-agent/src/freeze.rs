//! Freezing a container: its processes stopped where they are, and set going again.
//!
//! Hostile: the processes. One that cannot be stopped in time ends the attempt, not the agent.

use std::time::Duration;

use cofferdam_protocol::id::ContainerId;
use tokio::time::Instant;

use crate::agent::{Agent, RequestError};
use crate::cgroup::Cgroup;

/// Shorter than the host waits for the answer.
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);
/// The file is about a hundred bytes long.
const MAX_EVENTS_BYTES: u64 = 4096;

impl Agent {
    /// Freezes a container's processes, or sets them going. False: they did not freeze in time,
    /// and all run.
    ///
    /// # Errors
    /// When there is no such container, or the kernel refuses.
    pub async fn freeze(&self, id: &ContainerId, frozen: bool) -> Result<bool, RequestError> {
        let cgroup = self.group(id)?;
        if !frozen {
            cgroup.write("cgroup.freeze", "0").map_err(RequestError::Kernel)?;
            return Ok(true);
        }
        cgroup.write("cgroup.freeze", "1").map_err(RequestError::Kernel)?;
        if is_frozen_in_time(&cgroup).await {
            return Ok(true);
        }
        cgroup.write("cgroup.freeze", "0").map_err(RequestError::Kernel)?;
        Ok(false)
    }
}

async fn is_frozen_in_time(cgroup: &Cgroup) -> bool {
    let deadline = Instant::now() + FREEZE_DEADLINE;
    loop {
        let events = cgroup.read("cgroup.events", MAX_EVENTS_BYTES).unwrap_or_default();
        if events.lines().any(|line| line == "frozen 1") {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
