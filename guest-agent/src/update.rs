//! Other limits for a container: writes to its cgroup, all or none.

use cofferdam_protocol::agent::CgroupFile;
use cofferdam_protocol::id::ContainerId;

use crate::agent::{Agent, RequestError};
use crate::cgroup::Cgroup;

/// No file with a limit in it is longer.
const MAX_LIMIT_BYTES: u64 = 4096;

impl Agent {
    /// Writes to files of a container's cgroup. What was refused, if anything was: then the files
    /// are as they were.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn update(
        &self,
        id: &ContainerId,
        files: &[CgroupFile],
    ) -> Result<Option<String>, RequestError> {
        let cgroup = self.group(id)?;
        let mut done = Vec::new();
        for CgroupFile { name, text, .. } in files {
            let before = cgroup.read(name, MAX_LIMIT_BYTES);
            if let Err(error) = cgroup.write(name, text) {
                undo(&cgroup, &done);
                return Ok(Some(format!("writing {text:?} to {name}: {error}")));
            }
            done.extend(before.ok().map(|before| (name.as_str(), before)));
        }
        Ok(None)
    }
}

/// Backwards, so that the kernel finds each value valid again.
fn undo(cgroup: &Cgroup, done: &[(&str, String)]) {
    for (name, before) in done.iter().rev() {
        // The error that matters is the first.
        let _ = cgroup.write(name, before.trim_end());
    }
}
