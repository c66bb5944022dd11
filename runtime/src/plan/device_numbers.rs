//! Character devices that every kernel has of its own.

/// Whether a guest kernel has the character device with this number: memory devices, terminals,
/// tun and FUSE. Others are the host's hardware.
pub(super) const fn is_everywhere(major: u32, minor: u32) -> bool {
    matches!((major, minor), (1, 1..=11) | (5, 0..=2) | (10, 200 | 229))
}
