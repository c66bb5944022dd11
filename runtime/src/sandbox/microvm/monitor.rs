//! The monitor's process: its birth in namespaces of its own, what it inherits, and its report
//! that the guest is up.
//!
//! ```text
//!  spawn ──▶ gated (waits at a socket) ──▶ id maps written ──▶ exec ──▶ booting ──▶ ready
//!              │                                │                │         │
//!              └────────────────────────────────┴── dropped ─────┴─────────┴──▶ killed, reaped
//! ```
//!
//! A [`Monitor`] that is dropped is killed and reaped, so that no phase of a failed create leaves
//! a process; [`Monitor::release`] is the other way out.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cofferdam_protocol::boot::{BootReport, BootStage};
use cofferdam_protocol::bounds::{MAX_BOOT_REPORT_BYTES, MAX_VM_CONFIG_BYTES};
use cofferdam_protocol::frame::{self, FrameError};
use cofferdam_protocol::id::ContainerId;
use cofferdam_protocol::vm_config::{Descriptor, RestoreFiles, Share, VmConfig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, pidfd_send_signal, prlimit, waitid,
};

use super::group::{GroupError, SandboxGroup};
use super::id_map;
use super::image::Image;
use super::rpc::printable;
use super::shares::OpenShare;
use crate::artifacts::Artifacts;
use crate::figures::{self, Phase, Timed};
use crate::host::id_maps::{self, IdMapError};
use crate::host::network_namespace::NetworkNamespace;
use crate::host::process::ProcessIdentity;
use crate::host::signals::{Interrupted, Interrupts};
use crate::host::sys::{self, GatedChild, Program};
use crate::host::user::User;
use crate::kind::SandboxKind;
use crate::plan::own_users::UserMaps;
use crate::plan::{VmShape, host_limits};

/// Where the monitor writes how the sandbox ended.
pub(super) const EXIT_RECORD: &str = "exit";
/// The monitor's log, and the guest's console where the operator wants it.
pub(super) const LOG: &str = "monitor.log";
const CONSOLE: &str = "console.log";

/// Each file that the guest's kernel remembers is a descriptor of the monitor's; this is as many as
/// Linux allows one process unless it was told otherwise. Where the sandbox's memory is limited on the
/// host, its files are as well ([`host_limits::descriptors`]).
const MAX_DESCRIPTORS: u64 = 1 << 20;

/// An oops with its call trace has about as many.
const SHOWN_CONSOLE_LINES: usize = 40;

/// A signal that comes just before the wait does not cut it short: then it is seen after this.
const INTERRUPT_CHECK: Duration = Duration::from_millis(500);

/// The report comes before the monitor's own deadline, unless the monitor itself hangs.
const REPORT_GRACE: Duration = Duration::from_secs(2);

/// Why there is no running guest.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A descriptor or file for it.
    #[error("Cannot prepare the monitor's {what}")]
    Prepare {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Its configuration.
    #[error("Cannot write the monitor's configuration")]
    Config(#[source] FrameError),
    /// The process.
    #[error("Cannot start the monitor in namespaces of its own")]
    Clone(#[source] io::Error),
    /// The network namespace.
    #[error("Cannot start the monitor in the network namespace of the configuration")]
    Network(#[source] io::Error),
    /// The sandbox's group.
    #[error("Cannot limit the monitor")]
    Group(#[source] GroupError),
    /// How soon the kernel ends it.
    #[error(
        "Cannot give the monitor the configuration's process.oomScoreAdj, {score}; only root can lower it"
    )]
    OomScore {
        /// The score.
        score: i32,
        /// Why not.
        source: io::Error,
    },
    /// The user namespace.
    #[error("Cannot map the monitor's users ({file})")]
    IdMap {
        /// `uid_map` and so on.
        file: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The user namespace of an ordinary user's monitor.
    #[error("Cannot map the monitor's users")]
    OwnUsers(#[source] IdMapError),
    /// The program.
    #[error("Cannot execute the monitor {program}")]
    Exec {
        /// Its path.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// Ctrl-C, or whoever wants it to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// It ended without a report.
    #[error("The monitor ended before the guest was up ({how}){log}")]
    Ended {
        /// `exit code 1`, `signal 9`.
        how: String,
        /// The end of its log, if there is one.
        log: String,
    },
    /// It did not report in time.
    #[error("The monitor gave no report on the guest's boot within {} ms", .0.as_millis())]
    Silent(Duration),
    /// Its report is not one.
    #[error("The monitor's report on the guest's boot cannot be read")]
    Report(#[source] FrameError),
    /// The guest is lost.
    #[error("The guest did not boot (stage {stage:?}): {reason}{console}")]
    Boot {
        /// How far it came.
        stage: BootStage,
        /// What the monitor says.
        reason: String,
        /// The end of its console, with a heading; empty if it said nothing.
        console: String,
    },
}

/// What a monitor is started with.
#[derive(Debug)]
pub(super) struct MonitorSetup<'a> {
    pub(super) sandbox: &'a ContainerId,
    pub(super) shape: &'a VmShape,
    pub(super) artifacts: &'a Artifacts,
    pub(super) kvm: &'a File,
    pub(super) control: &'a UnixListener,
    pub(super) shares: &'a [OpenShare],
    /// The network namespace that it is in; absent: a new one.
    pub(super) network: Option<&'a NetworkNamespace>,
    /// How many network devices it can get.
    pub(super) network_slots: u8,
    /// How many disks.
    pub(super) disk_slots: u8,
    /// For how many containers that join it there is a place.
    pub(super) pod_places: u8,
    /// The machine that goes on, if one does.
    pub(super) restore: Option<&'a Image>,
    pub(super) boot_timeout: Duration,
    /// Keep the guest's console beside the log.
    pub(super) console_log: bool,
    pub(super) state_folder: &'a Path,
    /// The monitor's users, where they are an ordinary user's.
    pub(super) own_users: Option<&'a UserMaps>,
    /// How soon the host's kernel ends it for want of memory; absent: as its starter.
    pub(super) oom_score_adj: Option<i32>,
    /// The sandbox's group on the host.
    pub(super) group: &'a mut SandboxGroup,
}

/// A live monitor, killed and reaped when dropped.
#[derive(Debug)]
pub(super) struct Monitor {
    pid: i32,
    pidfd: OwnedFd,
    report: File,
    /// Where its log is, for the error that says that it ended.
    log: PathBuf,
    released: bool,
}

impl Monitor {
    /// Starts a monitor.
    pub(super) fn spawn(setup: MonitorSetup<'_>) -> Result<Self, MonitorError> {
        let (report, report_writer) = io::pipe().map_err(prepare("report"))?;
        let files = MonitorFiles::open(setup.state_folder, setup.console_log)?;
        let config = config_file(&setup, &files, report_writer.as_fd())?;
        let mut kept: Vec<BorrowedFd<'_>> = vec![
            config.as_fd(),
            setup.artifacts.kernel.as_fd(),
            setup.artifacts.initramfs.as_fd(),
            setup.kvm.as_fd(),
            setup.control.as_fd(),
            report_writer.as_fd(),
            files.exit_record.as_fd(),
            files.log.as_fd(),
        ];
        kept.extend(setup.restore.iter().flat_map(|i| [i.memory.as_fd(), i.state.as_fd()]));
        kept.extend(files.console.as_ref().map(AsFd::as_fd));
        kept.extend(setup.shares.iter().map(|share| share.tree.as_fd()));

        let (gate, child_gate) = UnixStream::pair().map_err(prepare("gate"))?;
        let child = clone_child(&setup, &config, &kept, [child_gate.as_fd(), gate.as_fd()])?;
        drop(child_gate);
        let monitor = Self {
            pid: child.pid,
            pidfd: child.pidfd,
            report: OwnedFd::from(report).into(),
            log: setup.state_folder.join(LOG),
            released: false,
        };
        match setup.own_users {
            Some(UserMaps { users, groups }) => {
                id_maps::write(monitor.pid, users, groups, User::current())
                    .map_err(MonitorError::OwnUsers)?;
            }
            None => id_map::write(monitor.pid)
                .map_err(|(file, source)| MonitorError::IdMap { file, source })?,
        }
        allow_descriptors(monitor.pid, most_descriptors(&setup));
        monitor.set_oom_score_adj(setup.oom_score_adj)?;
        setup.group.enter(monitor.pid, setup.shape).map_err(MonitorError::Group)?;
        pass_gate(gate).map_err(|source| MonitorError::Exec {
            program: setup.artifacts.monitor.display().to_string(),
            source,
        })?;
        Ok(monitor)
    }

    /// Waits until the guest is up, lost, or too late, the monitor ends, or this process is told
    /// to stop.
    pub(super) fn wait_ready(
        &mut self,
        boot_timeout: Duration,
        interrupts: &Interrupts,
    ) -> Result<(), MonitorError> {
        let timeout = boot_timeout + REPORT_GRACE;
        let deadline = Instant::now() + timeout;
        loop {
            interrupts.check()?;
            let remaining = deadline.saturating_duration_since(Instant::now());
            let wait = Timespec::try_from(remaining.min(INTERRUPT_CHECK)).ok();
            let mut fds =
                [PollFd::new(&self.report, PollFlags::IN), PollFd::new(&self.pidfd, PollFlags::IN)];
            match poll(&mut fds, wait.as_ref()) {
                Ok(0) if remaining.is_zero() => return Err(MonitorError::Silent(timeout)),
                Ok(_) if fds.iter().any(|fd| !fd.revents().is_empty()) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(prepare("report")(errno.into())),
            }
        }
        match frame::read_frame(&mut self.report, MAX_BOOT_REPORT_BYTES) {
            Ok(BootReport::Ready { stages_us }) => {
                tracing::debug!("The guest is up; microseconds of each stage: {stages_us:?}");
                note(&stages_us);
                Ok(())
            }
            Ok(BootReport::Failed { stage, reason, console }) => {
                let console = console_tail(&console);
                Err(MonitorError::Boot { stage, reason: printable(&reason), console })
            }
            Err(FrameError::End) => Err(self.ended()),
            Err(error) => Err(MonitorError::Report(error)),
        }
    }

    /// Who it is, for as long as the machine is up.
    pub(super) fn identity(&self) -> io::Result<ProcessIdentity> {
        ProcessIdentity::of(self.pid)
    }

    fn set_oom_score_adj(&self, score: Option<i32>) -> Result<(), MonitorError> {
        let Some(score) = score else { return Ok(()) };
        let set = self.identity().and_then(|process| process.set_oom_score_adj(score));
        set.map_err(|source| MonitorError::OomScore { score, source })
    }

    /// Lets it live on.
    pub(super) fn release(mut self) {
        self.released = true;
    }

    /// How it ended. It has closed its report, and so is about to.
    fn ended(&mut self) -> MonitorError {
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        self.released = status.is_ok();
        let status = status.ok().flatten();
        let how =
            match status.as_ref().map(|status| (status.exit_status(), status.terminating_signal()))
            {
                Some((Some(code), _)) => format!("exit code {code}"),
                Some((_, Some(signal))) => format!("signal {signal}"),
                _ => "unknown how".to_owned(),
            };
        MonitorError::Ended { how, log: log_tail(&self.log) }
    }
}

/// For the metrics.
fn note(stages_us: &[(BootStage, u64)]) {
    let phases = stages_us.iter().filter_map(|(stage, took)| {
        let phase = match stage {
            BootStage::Jail => Phase::BootJail,
            BootStage::Load => Phase::BootLoad,
            BootStage::Kernel => Phase::BootKernel,
            BootStage::Devices => Phase::BootDevices,
            // Where the boot ends.
            BootStage::Ready => return None,
        };
        Some((Timed::Phase(SandboxKind::Microvm, phase), Duration::from_micros(*took)))
    });
    figures::time_all(&phases.collect::<Vec<_>>());
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        // Both fail only for a process that has been reaped, and this is its only parent.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// The files in the state folder that the monitor writes.
struct MonitorFiles {
    exit_record: File,
    log: File,
    console: Option<File>,
}

impl MonitorFiles {
    fn open(state_folder: &Path, console: bool) -> Result<Self, MonitorError> {
        let create = |name| {
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o600);
            options.open(state_folder.join(name)).map_err(prepare(name))
        };
        let console = if console { Some(create(CONSOLE)?) } else { None };
        Ok(Self { exit_record: create(EXIT_RECORD)?, log: create(LOG)?, console })
    }
}

/// The configuration as a file in memory, at its beginning.
fn config_file(
    setup: &MonitorSetup<'_>,
    files: &MonitorFiles,
    report: BorrowedFd<'_>,
) -> Result<File, MonitorError> {
    let number = |fd: &dyn AsRawFd| Descriptor(fd.as_raw_fd());
    let shares = setup.shares.iter();
    let config = VmConfig {
        sandbox: setup.sandbox.clone(),
        vcpus: setup.shape.vcpus,
        vcpus_max: setup.shape.vcpus_max,
        memory_mib: setup.shape.memory_mib,
        memory_blocks_max: setup.shape.memory_blocks_max,
        network_slots: setup.network_slots,
        disk_slots: setup.disk_slots,
        pod_places: setup.pod_places,
        kernel: number(&setup.artifacts.kernel),
        initramfs: number(&setup.artifacts.initramfs),
        kvm: number(setup.kvm),
        control: number(setup.control),
        report: number(&report),
        exit_record: number(&files.exit_record),
        log: Some(number(&files.log)),
        console: files.console.as_ref().map(|console| number(console)),
        shares: shares.map(|share| Share { tree: number(&share.tree), kind: share.kind }).collect(),
        restore: setup.restore.map(|image| RestoreFiles {
            memory: number(&image.memory),
            state: number(&image.state),
        }),
        boot_timeout_ms: u64::try_from(setup.boot_timeout.as_millis()).unwrap_or(u64::MAX),
    };
    let file = memfd_create("config", MemfdFlags::CLOEXEC);
    let mut file = File::from(file.map_err(|errno| prepare("configuration")(errno.into()))?);
    frame::write_frame(&mut file, &config, MAX_VM_CONFIG_BYTES).map_err(MonitorError::Config)?;
    file.rewind().map_err(prepare("configuration"))?;
    Ok(file)
}

fn clone_child(
    setup: &MonitorSetup<'_>,
    config: &File,
    kept: &[BorrowedFd<'_>],
    gates: [BorrowedFd<'_>; 2],
) -> Result<GatedChild, MonitorError> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(prepare("/dev/null"))?;
    let text =
        |bytes: &[u8]| CString::new(bytes).map_err(|error| prepare("arguments")(error.into()));
    let arguments = [
        text(b"cofferdam-vmm")?,
        text(b"run")?,
        text(b"--config-fd")?,
        text(config.as_raw_fd().to_string().as_bytes())?,
    ];
    let group = setup.group.birthplace().map(File::open).transpose();
    let group = group.map_err(prepare("control group"))?;
    let program = Program {
        path: &text(setup.artifacts.monitor.as_os_str().as_bytes())?,
        arguments: &arguments,
        kept,
        standard: null.as_fd(),
        cpus: &setup.shape.host_cpus,
        cgroup: group.as_ref().map(AsFd::as_fd),
        memory: setup.shape.memory_policy.as_ref().map(|policy| (policy.mode, &*policy.nodes)),
        own_network: setup.network.is_none(),
    };
    let [child, parent] = gates;
    let spawn = || sys::spawn_gated(&program, child, parent).map_err(MonitorError::Clone);
    match setup.network {
        Some(namespace) => namespace.inside(spawn).map_err(MonitorError::Network)?,
        None => spawn(),
    }
}

fn most_descriptors(setup: &MonitorSetup<'_>) -> u64 {
    if setup.group.is_nowhere() {
        return MAX_DESCRIPTORS;
    }
    host_limits::descriptors(setup.shape.memory_mib.into()).min(MAX_DESCRIPTORS)
}

/// Lets the child have so many descriptors, where its starter may; what it has must do otherwise.
fn allow_descriptors(pid: i32, most: u64) {
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    let refused = prlimit(Pid::from_raw(pid), Resource::Nofile, limit).err();
    if let Some(error) = refused {
        tracing::debug!(%error, "the monitor keeps the limit of descriptors that it inherits");
    }
}

/// Lets the child go on and waits until it has executed its program.
fn pass_gate(mut gate: UnixStream) -> io::Result<()> {
    gate.write_all(&[1])?;
    let mut answer = Vec::new();
    gate.take(4).read_to_end(&mut answer)?;
    match <[u8; 4]>::try_from(answer.as_slice()) {
        Ok(errno) => Err(io::Error::from_raw_os_error(i32::from_le_bytes(errno))),
        Err(_) => Ok(()),
    }
}

fn prepare(what: &'static str) -> impl FnOnce(io::Error) -> MonitorError {
    move |source| MonitorError::Prepare { what, source }
}

/// The console's text is the guest's: nothing in it may steer the reader's terminal.
fn console_tail(console: &str) -> String {
    let lines: Vec<String> =
        console.lines().map(|line| format!("\n  {}", printable(line))).collect();
    let from = lines.len().saturating_sub(SHOWN_CONSOLE_LINES);
    let shown = lines.get(from..).unwrap_or_default().concat();
    if shown.is_empty() { shown } else { format!("\nThe end of its console:{shown}") }
}

/// The last line of the log: the monitor ends with its reason.
fn log_tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next_back().map(|line| format!(": {}", printable(line))).unwrap_or_default()
}

#[cfg(test)]
mod tests;
