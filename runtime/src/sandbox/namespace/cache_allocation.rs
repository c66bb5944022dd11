//! Intel RDT: shares of the L3 cache and of the memory's bandwidth, in the kernel's `resctrl` file
//! system. `libcontainer` makes a container's group there; this changes it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cofferdam_protocol::id::ContainerId;
use oci_spec::runtime::Spec;

use crate::sandbox::request::UpdateRequest;

/// Why the shares are as they were. The words are runc's.
#[derive(Debug, thiserror::Error)]
pub enum CacheAllocationError {
    /// No processor of this kind, or not mounted.
    #[error("Intel RDT/CAT: l3 cache schema is not enabled")]
    NoCache,
    /// Likewise.
    #[error("Intel RDT/MBA: memory bandwidth schema is not enabled")]
    NoBandwidth,
    /// The kernel refused.
    #[error("Intel RDT: cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Schemas that this machine can have.
#[derive(Debug)]
pub(super) struct Schemas {
    root: PathBuf,
    text: String,
}

/// The schemas that are asked for.
pub(super) fn schemas(request: &UpdateRequest) -> Result<Option<Schemas>, CacheAllocationError> {
    let said = [&request.l3_cache_schema, &request.memory_bandwidth_schema];
    let [cache, bandwidth] = said.map(|text| text.clone().filter(|text| !text.is_empty()));
    if cache.is_none() && bandwidth.is_none() {
        return Ok(None);
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let root = mount_point(&mounts);
    let has = |what: &str| root.as_ref().is_some_and(|root| root.join("info").join(what).exists());
    if cache.is_some() && !has("L3") && !has("L3CODE") {
        return Err(CacheAllocationError::NoCache);
    }
    if bandwidth.is_some() && !has("MB") {
        return Err(CacheAllocationError::NoBandwidth);
    }
    let lines = cache.into_iter().chain(bandwidth).map(|line| format!("{line}\n"));
    Ok(root.map(|root| Schemas { root, text: lines.collect() }))
}

impl Schemas {
    /// To the container's group.
    pub(super) fn write(self, id: &ContainerId, spec: &Spec) -> Result<(), CacheAllocationError> {
        let rdt = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
        let named = rdt.and_then(|rdt| rdt.clos_id().clone());
        let group = named.unwrap_or_else(|| id.to_string());
        let path = self.root.join(Path::new(&group).file_name().unwrap_or_default());
        let path = path.join("schemata");
        let write = fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, self.text.as_bytes()));
        write.map_err(|source| CacheAllocationError::Write { path, source })
    }
}

fn mount_point(mounts: &str) -> Option<PathBuf> {
    let line = mounts.lines().find(|line| line.contains(" - resctrl "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_found_by_its_type() {
        let mounts = "35 31 0:32 / /proc rw - proc proc rw\n\
                      36 31 0:33 / /sys/fs/resctrl rw - resctrl resctrl rw\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/resctrl".into()));
        assert_eq!(mount_point(""), None);
    }
}
