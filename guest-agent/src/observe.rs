//! What the host may know of a container's cgroup: the text of its files, and when the kernel kills
//! for want of memory. The host makes sense of it.

use std::io;
use std::os::fd::OwnedFd;

use cofferdam_protocol::agent::CgroupFile;
use cofferdam_protocol::id::ContainerId;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use crate::agent::{Agent, RequestError};
use crate::cgroup::Cgroup;
use crate::sys;

/// Statistics are made from about twenty.
const MAX_FILES: usize = 64;
/// `memory.stat`, the longest, has about two thousand.
const MAX_FILE_BYTES: u64 = 16 << 10;
const EVENTS: &str = "memory.events";

impl Agent {
    /// What files of a container's cgroup say; those that are not there are left out.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn read_cgroup(
        &self,
        id: &ContainerId,
        names: &[String],
    ) -> Result<Vec<CgroupFile>, RequestError> {
        let cgroup = self.group(id)?;
        let file = |name: &String| {
            let text = cgroup.read(name, MAX_FILE_BYTES).ok()?;
            Some(CgroupFile { name: name.clone(), text, ..Default::default() })
        };
        Ok(names.iter().take(MAX_FILES).filter_map(file).collect())
    }

    /// Waits until the kernel has killed more of a container's processes for want of memory than
    /// are known; how many it has.
    ///
    /// # Errors
    /// When there is no such container, or no longer.
    pub async fn wait_oom(&self, id: &ContainerId, known: u64) -> Result<u64, RequestError> {
        let cgroup = self.group(id)?;
        let watch = watch(&cgroup).map_err(RequestError::Kernel)?;
        loop {
            let Some(kills) = oom_kills(&cgroup) else {
                return Err(RequestError::NoContainer(id.clone()));
            };
            if kills > known || known == u64::MAX {
                return Ok(kills);
            }
            let mut ready = watch.readable().await.map_err(RequestError::Kernel)?;
            // Whatever it says, the file is looked at again.
            let _ = rustix::io::read(watch.get_ref(), &mut [0; 1024]);
            ready.clear_ready();
        }
    }
}

fn watch(cgroup: &Cgroup) -> io::Result<AsyncFd<OwnedFd>> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let what = inotify::WatchFlags::MODIFY | inotify::WatchFlags::DELETE_SELF;
    inotify::add_watch(&watch, cgroup.path().join(EVENTS), what)?;
    sys::register(watch)
}

fn oom_kills(cgroup: &Cgroup) -> Option<u64> {
    let text = cgroup.read(EVENTS, MAX_FILE_BYTES).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    Some(line.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
}
