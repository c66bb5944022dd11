//! Disks that come while the guest runs: a device that the monitor made is taken into use by its driver,
//! under a number that nobody knows before.

use std::fs;
use std::io;

use crate::platform;

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// The driver.
    #[error("binding the device's driver")]
    Bind(#[source] io::Error),
    /// The driver.
    #[error("unbinding the device's driver")]
    Unbind(#[source] io::Error),
    /// The driver made none.
    #[error("finding the device's disk")]
    Missing(#[source] io::Error),
    /// The kernel's words.
    #[error("reading the disk's number {0:?}")]
    Number(String),
}

/// Takes a device into use; the disk's number, major and minor.
pub(crate) fn add(device: u32) -> Result<(u32, u32), DiskError> {
    platform::bind(device).map_err(DiskError::Bind)?;
    let disk = platform::made_of(device, "block").map_err(DiskError::Missing)?;
    let number = fs::read_to_string(disk.join("dev")).map_err(DiskError::Missing)?;
    parse(&number).ok_or(DiskError::Number(number))
}

/// Gives a device back. Whoever has the disk open has it no more.
pub(crate) fn remove(device: u32) -> Result<(), DiskError> {
    platform::unbind(device).map_err(DiskError::Unbind)
}

fn parse(number: &str) -> Option<(u32, u32)> {
    let (major, minor) = number.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_two() {
        assert_eq!(parse("254:16\n"), Some((254, 16)));
        assert_eq!(parse("254"), None);
        assert_eq!(parse("a:b"), None);
    }
}
