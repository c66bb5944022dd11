//! What the guest's kernel remembers of files that nobody uses.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;

use crate::layout::Layout;
use crate::sys;

/// `Documentation/admin-guide/sysctl/vm.rst`: names and inodes, not what the files contain.
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";
const NAMES_AND_INODES: &str = "2";
/// What was used lately is passed over at first.
const ATTEMPTS: usize = 3;

/// Has the kernel forget them: each is a descriptor of the monitor's. A copy of the agent does it,
/// since it may take a second for each million.
///
/// # Errors
/// When the kernel refuses the copy.
pub(crate) fn forget_files(layout: &Layout) -> io::Result<()> {
    let cgroup = File::open(&layout.cgroups)?;
    sys::spawn(0, cgroup.as_fd(), drop_all)?;
    Ok(())
}

fn drop_all() -> Infallible {
    // Of the copy's descriptors some would keep a container's streams open.
    let alone = sys::close_all_but(&mut []);
    let dropped = alone
        .and_then(|()| (0..ATTEMPTS).try_for_each(|_| fs::write(DROP_CACHES, NAMES_AND_INODES)));
    sys::exit_now(i32::from(dropped.is_err()))
}
