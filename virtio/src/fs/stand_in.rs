//! Device nodes that a guest makes, where the server may make none: a file stands in for each.
//!
//! To make a node takes a right over the whole host (CAP_MKNOD of its first user namespace), and a
//! real one would lead whoever finds it there to a device of the host's. So an empty regular file
//! lies there with an extended attribute that says what it stands for. The guest sees the node, and
//! its own kernel says what is behind it, if anything: devices are never opened through the server.
//!
//! ```text
//!  user.cofferdam.device = c:MAJOR:MINOR or b:MAJOR:MINOR, in decimal
//! ```
//!
//! What this is not: a node to anybody but a guest. On the host, and for a container in namespaces,
//! it is an empty file.
//!
//! Hostile: the attribute of a file that came from elsewhere. What is not a device's is no
//! attribute. A guest cannot set it by itself: its kernel asks for the right to make nodes first.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{FileType, Statx, XattrFlags, getxattr, setxattr};
use rustix::io::Errno;
use rustix::path::DecInt;

/// The attribute, which guests neither see nor change.
pub(super) const ATTRIBUTE: &CStr = c"user.cofferdam.device";

/// `c:4294967295:4294967295`, and one byte more, by which a longer value is seen to be longer.
const MAX_VALUE_BYTES: usize = 24;

/// Character or block, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    kind: FileType,
    major: u32,
    minor: u32,
}

impl Device {
    /// What `mknod` asks for; `None` for what is no device.
    pub(super) fn asked_for(kind: FileType, number: u32) -> Option<Self> {
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        let number = u64::from(number);
        is_device.then(|| Self { kind, major: libc::major(number), minor: libc::minor(number) })
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(value).ok()?.split(':');
        let kind = match parts.next()? {
            "c" => FileType::CharacterDevice,
            "b" => FileType::BlockDevice,
            _ => return None,
        };
        let mut number = || parts.next()?.parse().ok();
        let device = Self { kind, major: number()?, minor: number()? };
        parts.next().is_none().then_some(device)
    }

    fn value(self) -> String {
        let kind = if self.kind == FileType::BlockDevice { 'b' } else { 'c' };
        format!("{kind}:{}:{}", self.major, self.minor)
    }
}

/// Makes an empty file stand in for a device. The thread's working directory is `/proc/self/fd`.
///
/// # Errors
/// `EPERM`, as `mknod` has it, where the file system has no attributes.
pub(super) fn mark(file: impl AsFd, device: Device) -> rustix::io::Result<()> {
    let value = device.value();
    match setxattr(DecInt::from_fd(file), ATTRIBUTE, value.as_bytes(), XattrFlags::CREATE) {
        Err(Errno::NOTSUP) => Err(Errno::PERM),
        other => other,
    }
}

/// What the guest sees of a file: the device, if it stands in for one.
pub(super) fn seen_as(file: impl AsFd, seen: Statx) -> Statx {
    let kind = FileType::from_raw_mode(seen.stx_mode.into());
    // Most files are not empty, and cost nothing.
    if kind != FileType::RegularFile || seen.stx_size != 0 {
        return seen;
    }
    let mut value = [0; MAX_VALUE_BYTES];
    let read = getxattr(DecInt::from_fd(file), ATTRIBUTE, value.as_mut_slice());
    match read.ok().and_then(|length| Device::parse(value.get(..length)?)) {
        Some(device) => in_place_of(seen, device),
        None => seen,
    }
}

/// The same file but for its kind and number.
fn in_place_of(mut seen: Statx, device: Device) -> Statx {
    const KIND: u16 = libc::S_IFMT as u16;
    seen.stx_mode = (seen.stx_mode & !KIND) | (device.kind.as_raw_mode() as u16 & KIND);
    seen.stx_rdev_major = device.major;
    seen.stx_rdev_minor = device.minor;
    seen
}

/// The names of attributes that guests are told of: each ends with a zero.
pub(super) fn without_its_attribute(names: &[u8]) -> Vec<u8> {
    let ours = ATTRIBUTE.to_bytes_with_nul();
    names
        .split_inclusive(|byte| *byte == 0)
        .filter(|name| *name != ours)
        .flatten()
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_it_was_written_and_nothing_else_is_one() {
        for (kind, number) in [(FileType::CharacterDevice, 0x0105), (FileType::BlockDevice, !0)] {
            let device = Device::asked_for(kind, number).unwrap();
            assert_eq!(Device::parse(device.value().as_bytes()), Some(device));
            assert!(device.value().len() < MAX_VALUE_BYTES);
        }
        assert_eq!(Device::asked_for(FileType::Fifo, 0), None);
        for value in
            ["", "c", "c:1", "c:1:3:", "c:1:3:4", "c:-1:3", "p:1:3", "c:1:4294967296", "c:\0:1"]
        {
            assert_eq!(Device::parse(value.as_bytes()), None, "{value:?}");
        }
        assert_eq!(Device::parse(&[0xff; 5]), None);
    }

    #[test]
    fn only_its_own_name_is_left_out() {
        let names = b"user.a\0user.cofferdam.device\0user.cofferdam.devices\0";
        assert_eq!(without_its_attribute(names), b"user.a\0user.cofferdam.devices\0");
        assert_eq!(without_its_attribute(b""), b"");
    }
}
