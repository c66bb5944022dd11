//! The KVM probe: whether this machine's KVM can run a guest. `cofferdam-vmm probe` finds out in a
//! process of its own, which may hang or die on an unfit KVM; what it found holds for the boot of
//! the machine and is cached.
//!
//! Hostile: the cache's folder may be another user's when the runtime is not root. A cache that
//! others can write is not read.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_protocol::probe::ProbeReport;
use serde::{Deserialize, Serialize};

use crate::artifacts::{self, ArtifactError};
use crate::config::MicroVmConfig;
use crate::places::Places;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The probe takes milliseconds on a fit machine, and gives up by itself on a slow one.
const DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(1);
/// A report is one line.
const MAX_REPORT_BYTES: u64 = 16 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no monitor.
    #[error(transparent)]
    Monitor(#[from] ArtifactError),
    /// It does not start, or its answer cannot be read.
    #[error("Cannot run {monitor} probe")]
    Run {
        /// Its path.
        monitor: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It did not end: KVM hangs.
    #[error("The KVM probe did not end within {} s", DEADLINE.as_secs())]
    Deadline,
    /// It died, or wrote something else than a report.
    #[error("The KVM probe ended without a report ({status})")]
    NoReport {
        /// How it ended.
        status: std::process::ExitStatus,
        /// What is wrong with its output.
        source: serde_json::Error,
    },
}

/// The cached report. The key says for which boot and which monitor it holds.
#[derive(Debug, Serialize, Deserialize)]
struct Cache {
    boot_id: String,
    monitor: MonitorIdentity,
    report: ProbeReport,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MonitorIdentity {
    path: PathBuf,
    inode: u64,
    modified_s: i64,
    modified_ns: i64,
}

/// Whether KVM can serve, from the cache where there is an answer for this boot.
///
/// # Errors
/// When the probe cannot be run, or ends without an answer.
pub fn report(config: &MicroVmConfig) -> Result<ProbeReport, ProbeError> {
    report_cached(config, &Places::current().probe)
}

/// The probe's answer as the reason why there can be no microVM.
///
/// # Errors
/// That reason.
pub fn require_fit(config: &MicroVmConfig) -> Result<(), String> {
    match report(config) {
        Ok(ProbeReport::Fit { .. }) => Ok(()),
        Ok(ProbeReport::Unfit { reason }) => Err(format!("KVM is unfit: {reason}")),
        Ok(ProbeReport::Absent { reason }) => Err(format!("no KVM: {reason}")),
        Err(error) => Err(crate::host::log::with_causes(&error)),
    }
}

fn report_cached(config: &MicroVmConfig, cache: &Path) -> Result<ProbeReport, ProbeError> {
    let path = artifacts::find_monitor(config)?;
    let metadata =
        fs::metadata(&path).map_err(|source| ProbeError::Run { monitor: path.clone(), source })?;
    let monitor = MonitorIdentity {
        path,
        inode: metadata.ino(),
        modified_s: metadata.mtime(),
        modified_ns: metadata.mtime_nsec(),
    };
    let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_default();
    if let Some(found) = read_cache(cache, metadata_uid())
        && found.boot_id == boot_id
        && found.monitor == monitor
    {
        return Ok(found.report);
    }
    let report = run(&monitor.path)?;
    // A device that is absent or forbidden may come, and the answer is cheap.
    if !matches!(report, ProbeReport::Absent { .. }) {
        write_cache(cache, &Cache { boot_id, monitor, report: report.clone() });
    }
    Ok(report)
}

fn metadata_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn read_cache(path: &Path, uid: u32) -> Option<Cache> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let trusted = metadata.uid() == uid && metadata.mode() & WRITABLE_BY_OTHERS == 0;
    let mut bytes = Vec::new();
    file.take(MAX_REPORT_BYTES).read_to_end(&mut bytes).ok()?;
    trusted.then(|| serde_json::from_slice(&bytes).ok())?
}

/// A cache that cannot be written costs time at the next start, and nothing else.
fn write_cache(path: &Path, cache: &Cache) {
    let Some(folder) = path.parent() else { return };
    let _ = DirBuilder::new().recursive(true).mode(0o711).create(folder);
    if let Ok(bytes) = serde_json::to_vec(cache) {
        let _ = crate::host::replace::replace_file(path, &bytes, 0o600);
    }
}

fn run(monitor: &Path) -> Result<ProbeReport, ProbeError> {
    let failed = |source| ProbeError::Run { monitor: monitor.to_path_buf(), source };
    let mut child = Command::new(monitor)
        .arg("probe")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let status = wait_with_deadline(&mut child).map_err(failed)?.ok_or(ProbeError::Deadline)?;
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_REPORT_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    }
    serde_json::from_slice(&bytes).map_err(|source| ProbeError::NoReport { status, source })
}

/// The report is shorter than a pipe's buffer, so that waiting first cannot block the child.
fn wait_with_deadline(child: &mut Child) -> io::Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A monitor that prints this, and a line into `runs` for each of its runs.
    fn monitor(folder: &Path, output: &str) -> MicroVmConfig {
        let path = folder.join("monitor");
        let runs = folder.join("runs");
        let script = format!("#!/bin/sh\necho x >> {}\necho '{output}'\n", runs.display());
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        MicroVmConfig { monitor: Some(path), ..MicroVmConfig::default() }
    }

    fn runs(folder: &Path) -> usize {
        fs::read_to_string(folder.join("runs")).unwrap().lines().count()
    }

    #[test]
    fn an_answer_is_asked_for_once_in_a_boot() {
        let folder = tempfile::tempdir().unwrap();
        let config = monitor(folder.path(), r#"{"verdict":"fit","ring0_ns_x100":50}"#);
        let cache = folder.path().join("run/cache.json");
        let expected = ProbeReport::Fit { ring0_ns_x100: 50 };
        assert_eq!(report_cached(&config, &cache).unwrap(), expected);
        assert_eq!(report_cached(&config, &cache).unwrap(), expected);
        assert_eq!(runs(folder.path()), 1);
    }

    #[test]
    fn a_cache_that_others_can_write_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let config = monitor(folder.path(), r#"{"verdict":"unfit","reason":"slow"}"#);
        let cache = folder.path().join("cache.json");
        report_cached(&config, &cache).unwrap();
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o666)).unwrap();
        report_cached(&config, &cache).unwrap();
        assert_eq!(runs(folder.path()), 2);
    }

    #[test]
    fn an_absent_kvm_is_asked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let config = monitor(folder.path(), r#"{"verdict":"absent","reason":"no device"}"#);
        let cache = folder.path().join("cache.json");
        report_cached(&config, &cache).unwrap();
        assert!(!cache.exists());
    }

    #[test]
    fn an_answer_that_is_none_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let config = monitor(folder.path(), "hello");
        let error = report_cached(&config, &folder.path().join("cache.json")).unwrap_err();
        assert!(matches!(error, ProbeError::NoReport { .. }));
    }
}
