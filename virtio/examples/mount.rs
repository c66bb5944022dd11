//! Mounts a folder through the file server, with this machine's kernel in the place of a guest's:
//! for suites that test file systems, without a virtual machine.
//!
//! `cargo run -p cofferdam-virtio --features fuzzing --example mount -- FOLDER MOUNTPOINT`, as
//! root. It ends when it is unmounted.
#![allow(clippy::unwrap_used, reason = "a tool for developers: what fails is to be seen at once")]

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use cofferdam_virtio::fuzzing::Bridge;
use rustix::mount::{MountFlags, mount};

/// A MiB of content, and its header.
const MESSAGE_BYTES: usize = (1 << 20) + 4096;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, target] = arguments.as_slice() else { panic!("mount FOLDER MOUNTPOINT") };
    let mut device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let options = std::ffi::CString::new(options).unwrap();
    mount("cofferdam", target.as_str(), "fuse", MountFlags::empty(), Some(options.as_c_str()))
        .unwrap();
    let mut bridge = Bridge::open(Path::new(folder)).unwrap();
    let mut message = vec![0; MESSAGE_BYTES];
    loop {
        let length = match device.read(&mut message) {
            Ok(length) => length,
            // A request that was interrupted before it was read.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            // Unmounted.
            Err(_) => return,
        };
        let answer = bridge.ask(message.get(..length).unwrap());
        // Nobody waits for the answer any more: as it may be.
        let _ = if answer.is_empty() { Ok(0) } else { device.write(&answer) };
    }
}
