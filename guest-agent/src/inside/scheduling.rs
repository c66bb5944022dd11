//! When and where a process runs.

use cofferdam_protocol::plan::ProcessPlan;

use super::failure::{StartError, Step};
use crate::sys;

/// Sets scheduler, I/O priority and personality. While the process is privileged.
pub(crate) fn assume(plan: &ProcessPlan) -> Result<(), StartError> {
    if let Some(scheduler) = &plan.scheduling.scheduler {
        sys::set_scheduler(scheduler)
            .step(|| format!("setting the scheduler (policy {})", scheduler.policy))?;
    }
    if let Some(priority) = plan.scheduling.io_priority {
        sys::set_io_priority(priority).step(|| format!("setting the I/O priority {priority}"))?;
    }
    if let Some(persona) = plan.personality {
        sys::set_personality(persona).step(|| format!("setting the personality {persona}"))?;
    }
    Ok(())
}

/// Keeps this process to these processors; with none, it stays as it is.
pub(crate) fn set_processors(cpus: &[u32]) -> Result<(), StartError> {
    if cpus.is_empty() {
        return Ok(());
    }
    sys::set_affinity(cpus)
        .step(|| format!("keeping the process to the guest's processors {cpus:?}"))
}
