//! Capabilities, and what goes with them. Each call is for the calling thread, and for those that
//! it makes afterwards.

use caps::{CapSet, Capability, CapsHashSet};
use rustix::io::Errno;
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits, set_no_new_privs};

/// What serving other users' files takes. They count in the monitor's user namespace: for files
/// whose owners are mapped there, on mounts that the thread can reach.
pub const FILE_SERVER: [Capability; 7] = [
    // Files belong to whom the guest says.
    Capability::CAP_CHOWN,
    // The guest's root reads and writes everything in its container.
    Capability::CAP_DAC_OVERRIDE,
    // Mode bits and times of files of other owners.
    Capability::CAP_FOWNER,
    // A mode's set-id bits stay when the file changes hands.
    Capability::CAP_FSETID,
    // New files are made as the user who asks, so that the kernel applies quota and set-gid folders.
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    // Named pipes and sockets by mknod; device nodes need more than this namespace can give.
    Capability::CAP_MKNOD,
];

/// What watching folders takes, whoever may read them.
pub const WATCHER: [Capability; 1] = [Capability::CAP_DAC_READ_SEARCH];

/// Why privileges were not given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Capabilities.
    #[error("The capability sets cannot be reduced")]
    Capabilities(#[source] caps::errors::CapsError),
    /// The secure bits.
    #[error("Capabilities cannot be separated from users")]
    SecureBits(#[source] Errno),
    /// `no_new_privs`.
    #[error("The thread cannot be kept from new privileges")]
    NoNewPrivileges(#[source] Errno),
}

/// Lets the calling thread change its user without a change of its capabilities: the file server
/// says itself what it keeps when it acts for another user.
///
/// # Errors
/// When the kernel refuses.
pub fn separate_from_user() -> Result<(), PrivilegeError> {
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
        .map_err(PrivilegeError::SecureBits)
}

/// Reduces the calling thread to the capabilities given, for good.
///
/// # Errors
/// When the kernel refuses.
pub fn reduce_to(kept: &[Capability]) -> Result<(), PrivilegeError> {
    let kept: CapsHashSet = kept.iter().copied().collect();
    let bounding = caps::read(None, CapSet::Bounding).map_err(PrivilegeError::Capabilities)?;
    for capability in bounding.difference(&kept) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(PrivilegeError::Capabilities)?;
    }
    caps::clear(None, CapSet::Ambient).map_err(PrivilegeError::Capabilities)?;
    caps::clear(None, CapSet::Inheritable).map_err(PrivilegeError::Capabilities)?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(PrivilegeError::Capabilities)?;
    }
    set_no_new_privs(true).map_err(PrivilegeError::NoNewPrivileges)
}
