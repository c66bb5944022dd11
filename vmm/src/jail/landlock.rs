//! Landlock: a second wall in front of files, which holds where a mount namespace is got around.
//!
//! Kernels know different versions of it; what a kernel does not know is left out, and that is
//! reported: it is a wall less, not an error.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use std::os::fd::OwnedFd;

/// The version that this code was written for.
const NEWEST: ABI = ABI::V6;

/// Landlock refused a rule (not: it is missing).
#[derive(Debug, thiserror::Error)]
#[error("Landlock refuses the rules")]
pub struct LandlockError(#[from] RulesetError);

/// How much of the wall stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// All that this code knows.
    Full,
    /// What this kernel knows.
    Partial,
    /// Nothing: the kernel has no Landlock, or it is off.
    None,
}

impl From<RulesetStatus> for Enforcement {
    fn from(status: RulesetStatus) -> Self {
        match status {
            RulesetStatus::FullyEnforced => Self::Full,
            RulesetStatus::PartiallyEnforced => Self::Partial,
            RulesetStatus::NotEnforced => Self::None,
        }
    }
}

/// Denies the calling thread, and those that it makes afterwards, every file, every TCP port, and
/// signals and abstract sockets of anyone outside.
///
/// # Errors
/// When Landlock is there and refuses.
pub fn deny_all() -> Result<Enforcement, LandlockError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset.into())
}

/// Denies the file server's thread every file outside of its root, and inside of it what a file
/// server never does: run programs, use devices.
///
/// The first version of Landlock cannot allow a file to move to another folder, which containers
/// do: there the wall is left out.
///
/// # Errors
/// When Landlock is there and refuses.
pub fn allow_only_below(root: OwnedFd) -> Result<Enforcement, LandlockError> {
    let moving = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer);
    if moving.is_err() {
        return Ok(Enforcement::None);
    }
    let served = AccessFs::from_all(NEWEST) & !(AccessFs::Execute | AccessFs::IoctlDev);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rule(PathBeneath::new(root, served))?
        .restrict_self()?;
    Ok(status.ruleset.into())
}
