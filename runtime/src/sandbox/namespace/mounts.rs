//! What `libcontainer` leaves undone of the mounts, done after it inside the container's mount
//! namespace: it passes over propagation options of a mount, and it mounts the v1 control groups
//! writable although the spec says `ro`.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::cgroup;
use super::sys::{self, MountAttributes};

/// One mount to be completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MountFinish {
    pub(super) destination: PathBuf,
    /// With everything that is mounted below it.
    pub(super) read_only: bool,
    /// MS_PRIVATE and so on, MS_REC.
    pub(super) propagation: Option<u64>,
}

/// What is to be completed for this spec.
pub(super) fn plan(spec: &Spec) -> Vec<MountFinish> {
    let unified = cgroup::is_unified();
    spec.mounts().iter().flatten().filter_map(|mount| plan_one(mount, unified)).collect()
}

fn plan_one(mount: &Mount, unified: bool) -> Option<MountFinish> {
    let options = || mount.options().iter().flatten().map(String::as_str);
    let finish = MountFinish {
        destination: mount.destination().clone(),
        read_only: ((mount.typ().as_deref() == Some("cgroup") && !unified)
            || mount.destination() == Path::new("/dev"))
            && options().any(|o| o == "ro"),
        propagation: options().filter_map(propagation).next_back(),
    };
    (finish.read_only || finish.propagation.is_some()).then_some(finish)
}

fn propagation(option: &str) -> Option<u64> {
    Some(match option {
        "private" => libc::MS_PRIVATE,
        "rprivate" => libc::MS_PRIVATE | libc::MS_REC,
        "slave" => libc::MS_SLAVE,
        "rslave" => libc::MS_SLAVE | libc::MS_REC,
        "shared" => libc::MS_SHARED,
        "rshared" => libc::MS_SHARED | libc::MS_REC,
        "unbindable" => libc::MS_UNBINDABLE,
        "runbindable" => libc::MS_UNBINDABLE | libc::MS_REC,
        _ => return None,
    })
}

/// Completes the mounts, inside the container's root.
pub(super) fn finish(mounts: &[MountFinish]) -> io::Result<()> {
    mounts.iter().try_for_each(finish_one)
}

fn finish_one(mount: &MountFinish) -> io::Result<()> {
    if let Some(kind) = mount.propagation {
        let target = CString::new(mount.destination.as_os_str().as_bytes())?;
        sys::set_propagation(&target, kind)?;
    }
    if mount.read_only {
        set_read_only(&mount.destination)?;
    }
    Ok(())
}

fn set_read_only(destination: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
    let mount = rustix::fs::open(destination, flags, Mode::empty())?;
    let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
    sys::mount_setattr(mount.as_fd(), true, read_only)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(value: serde_json::Value) -> Mount {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_ordinary_mount_needs_nothing() {
        let proc = mount(serde_json::json!({"destination": "/proc", "type": "proc"}));
        assert_eq!(plan_one(&proc, false), None);
    }

    #[test]
    fn the_last_propagation_option_holds() {
        let bind = mount(serde_json::json!({
            "destination": "/data", "type": "bind", "options": ["rbind", "rshared", "rprivate"],
        }));
        let finish = plan_one(&bind, true).unwrap();
        assert_eq!(finish.propagation, Some(libc::MS_PRIVATE | libc::MS_REC));
        assert!(!finish.read_only);
    }

    #[test]
    fn control_groups_of_v1_become_read_only_where_the_spec_says_so() {
        let cgroup = mount(serde_json::json!({
            "destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["nosuid", "ro"],
        }));
        assert!(plan_one(&cgroup, false).unwrap().read_only);
        assert_eq!(plan_one(&cgroup, true), None);
    }
}
