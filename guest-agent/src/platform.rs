//! Virtio devices that come and go: the monitor makes one, its driver takes it into use, and gives it back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::libc;

const BIND: &str = "/sys/bus/platform/drivers/virtio-mmio/bind";
const UNBIND: &str = "/sys/bus/platform/drivers/virtio-mmio/unbind";
const DEVICES: &str = "/sys/bus/platform/devices";

/// Has the driver take a device into use: what it makes of it is there afterwards.
pub(crate) fn bind(device: u32) -> io::Result<()> {
    fs::write(BIND, name_of(device))
}

/// Has the driver give a device back. One that it does not have is given back already.
pub(crate) fn unbind(device: u32) -> io::Result<()> {
    match fs::write(UNBIND, name_of(device)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        done => done,
    }
}

/// Where the kernel describes what the driver has made of a device: the only entry of the folder `kind`.
pub(crate) fn made_of(device: u32, kind: &str) -> io::Result<PathBuf> {
    made_below(&Path::new(DEVICES).join(name_of(device)), kind)
}

fn made_below(device: &Path, kind: &str) -> io::Result<PathBuf> {
    for entry in fs::read_dir(device)? {
        let folder = entry?.path().join(kind);
        if let Some(made) = fs::read_dir(folder).ok().and_then(|mut list| list.next()) {
            return Ok(made?.path());
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn name_of(device: u32) -> String {
    format!("virtio-mmio.{device}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_driver_has_made_is_found_by_its_kind() {
        let device = tempfile::tempdir().unwrap();
        fs::create_dir_all(device.path().join("virtio3/block/vda")).unwrap();
        fs::create_dir_all(device.path().join("power")).unwrap();
        let found = made_below(device.path(), "block").unwrap();
        assert_eq!(found, device.path().join("virtio3/block/vda"));
        let missing = made_below(device.path(), "net").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
