//! `pause` and `resume`: the guest's own freezer stops the container's processes. The virtual
//! machine runs on, so that whoever asks for anything else still gets an answer.

use super::agent::{self, Agent, AgentError};
use super::control::{self, ControlError};
use crate::sandbox::request::SandboxRef;

/// Why a container's processes were not frozen, or not set going again.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// The monitor cannot be reached.
    #[error("The container's microVM cannot be reached")]
    Control(#[source] ControlError),
    /// The guest did not do it.
    #[error("The guest's processes cannot be frozen or set going")]
    Agent(#[source] AgentError),
    /// Some process does not stop.
    #[error("The container's processes do not freeze in time")]
    TooSlow,
}

/// Freezes every process of the container.
///
/// # Errors
/// When they do not freeze in time. They all run then.
pub fn pause(sandbox: &SandboxRef) -> Result<(), FreezeError> {
    if set(sandbox, true)? { Ok(()) } else { Err(FreezeError::TooSlow) }
}

/// Sets them going again.
///
/// # Errors
/// When the guest cannot be reached or does not do it.
pub fn resume(sandbox: &SandboxRef) -> Result<(), FreezeError> {
    set(sandbox, false).map(|_| ())
}

fn set(sandbox: &SandboxRef, frozen: bool) -> Result<bool, FreezeError> {
    let connection = control::connect_agent(&sandbox.state_folder, agent::REQUEST_TIMEOUT)
        .map_err(FreezeError::Control)?;
    Agent::new(connection).freeze(&sandbox.id, frozen).map_err(FreezeError::Agent)
}
