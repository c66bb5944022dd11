//! `checkpoint` and `restore` of a container in namespaces: refused, with the way that there is.
//!
//! CRIU could do it. It wants to be told of every mount, descriptor and namespace that is not the
//! container's own, and what is hardened here is not yet told to it; a container that came back
//! without a part of its confinement would be worse than one that does not come back.

use crate::sandbox::request::{ImageRequest, SandboxRef};

/// Why a container was not saved, or not gone on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Never.
    #[error(
        "A container in namespaces cannot be saved or restored by this version, which does not drive CRIU: run it in a microVM (--isolation microvm), which can"
    )]
    Unsupported,
}

/// Saves a container.
///
/// # Errors
/// Always: see the module.
pub const fn checkpoint(_: &SandboxRef, _: &ImageRequest) -> Result<(), CheckpointError> {
    Err(CheckpointError::Unsupported)
}
