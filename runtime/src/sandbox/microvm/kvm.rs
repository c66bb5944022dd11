//! `/dev/kvm`, opened by the runtime: the monitor gets the descriptor and could not open it.

use std::fs::{File, OpenOptions};
use std::io;

const DEVICE: &str = "/dev/kvm";

/// Why there is no KVM.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// No device.
    #[error(
        "There is no {DEVICE}: the machine has no virtualisation, or its kvm module is not loaded"
    )]
    Absent(#[source] io::Error),
    /// Not for this user.
    #[error("No permission to use {DEVICE}: add the user to the group kvm, or run as root")]
    Permission(#[source] io::Error),
    /// Something else.
    #[error("Cannot open {DEVICE}")]
    Open(#[source] io::Error),
}

/// Opens the device.
pub(super) fn open() -> Result<File, KvmError> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KvmError::Absent(error),
        io::ErrorKind::PermissionDenied => KvmError::Permission(error),
        _ if error.raw_os_error() == Some(nix::libc::ENXIO)
            || error.raw_os_error() == Some(nix::libc::ENODEV) =>
        {
            KvmError::Absent(error)
        }
        _ => KvmError::Open(error),
    })
}
