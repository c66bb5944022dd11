//! What a process of a container becomes before its program runs: a plan that travels to the
//! process that will be it, and the steps that carry it out. The same for a container's first
//! process and for one that `exec` adds.
//!
//! ```text
//!   prepare (full privileges, inside the container's namespaces)
//!      scheduling, limits, session keyring, working folder, streams' owner, groups,
//!      descriptors closed on exec, seccomp (without no_new_privs it needs a privilege), bounding
//!      set, ids, capabilities
//!   load_late_seccomp
//!      seccomp (with no_new_privs)
//!   execute
//!      signals reset, execve
//! ```
//!
//! Hostile: everything that is read below the container's root (`/etc/passwd`, links in the way of
//! the program and of the working folder). No library of the container's is loaded: no lookup goes
//! through NSS.

use std::cell::RefCell;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use libcontainer::capabilities::CapabilityExt;
use nix::unistd::{Gid, Uid};
use oci_spec::runtime::{
    Capabilities, Linux, LinuxCapabilities, PosixRlimit, PosixRlimitType, Process,
};
use serde::{Deserialize, Serialize};

use super::environment;
use super::listener;
use super::scheduling::{SchedulingError, SchedulingPlan};
use super::sys;
use crate::sandbox::request::StartFailureKind;

/// Where programs are looked for when the process has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process, complete and checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ProcessPlan {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) cwd: PathBuf,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) umask: Option<u32>,
    pub(super) capabilities: CapabilityPlan,
    pub(super) no_new_privileges: bool,
    pub(super) seccomp: Option<SeccompFile>,
    pub(super) new_session_keyring: bool,
    pub(super) limits: Vec<Limit>,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) apparmor_profile: Option<String>,
    pub(super) preserve_fds: u32,
    pub(super) scheduling: SchedulingPlan,
    /// Where to say which descriptor a filter's notifications come from.
    pub(super) listener: Option<RawFd>,
}

/// The compiled filter in a state folder.
pub(super) const SECCOMP_FILE: &str = "seccomp.bpf";

/// A compiled filter on disk, below the state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SeccompFile {
    pub(super) path: PathBuf,
    /// SECCOMP_FILTER_FLAG_*.
    pub(super) flags: u32,
}

/// One resource limit, in the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limit {
    pub(super) resource: u32,
    pub(super) soft: u64,
    pub(super) hard: u64,
}

/// The five sets as bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CapabilityPlan {
    pub(super) bounding: u64,
    pub(super) effective: u64,
    pub(super) permitted: u64,
    pub(super) inheritable: u64,
    pub(super) ambient: u64,
}

/// A step that failed, and what it means for the exit code.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessError {
    /// No such program.
    #[error("exec: {0:?}: executable file not found in $PATH: no such file or directory")]
    NotFound(String),
    /// It may not be executed.
    #[error("exec: {0:?}: permission denied")]
    NotExecutable(String),
    /// The program was found and the kernel refused to run it.
    #[error("exec {program}: {}", words_of(error))]
    Execute {
        /// What was to run.
        program: String,
        /// Why not; in the text already, in runc's words.
        error: io::Error,
    },
    /// The kernel will not run it as it should be run.
    #[error(transparent)]
    Scheduling(#[from] SchedulingError),
    /// The kernel does not let it into a control group of the container's. The words are runc's.
    #[error("error adding pid {pid} to cgroups")]
    Cgroups {
        /// The process, as the container counts.
        pid: u32,
        /// Why not.
        source: io::Error,
    },
    /// A step of the preparation.
    #[error("Cannot {step}")]
    Step {
        /// In words that complete `cannot ...`.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl ProcessError {
    /// Whether the program itself is at fault.
    pub(super) fn kind(&self) -> Option<StartFailureKind> {
        match self {
            Self::NotFound(_) => Some(StartFailureKind::NotFound),
            Self::NotExecutable(_) => Some(StartFailureKind::NotExecutable),
            Self::Execute { error, .. } => match error.kind() {
                io::ErrorKind::NotFound => Some(StartFailureKind::NotFound),
                _ => Some(StartFailureKind::NotExecutable),
            },
            Self::Scheduling(_) | Self::Cgroups { .. } | Self::Step { .. } => None,
        }
    }
}

/// An error of the kernel as Go, and so runc, says it.
fn words_of(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// Gives a failed system call the words for what it was to do.
trait During<T> {
    fn during(self, step: &'static str) -> Result<T, ProcessError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: &'static str) -> Result<T, ProcessError> {
        self.map_err(|source| ProcessError::Step { step, source: source.into() })
    }
}

impl ProcessPlan {
    /// What the specification says, with nothing added. A set of capabilities that is absent is
    /// empty, as runc has it.
    pub(super) fn from_spec(
        process: &Process,
        linux: Option<&Linux>,
        seccomp: Option<SeccompFile>,
    ) -> Self {
        let user = process.user();
        Self {
            args: process.args().clone().unwrap_or_default(),
            env: process.env().clone().unwrap_or_default(),
            cwd: process.cwd().clone(),
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask(),
            capabilities: process
                .capabilities()
                .as_ref()
                .map(CapabilityPlan::from_spec)
                .unwrap_or_default(),
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            seccomp,
            new_session_keyring: true,
            limits: process.rlimits().iter().flatten().map(Limit::from_spec).collect(),
            oom_score_adj: process.oom_score_adj(),
            apparmor_profile: process.apparmor_profile().clone().filter(|p| !p.is_empty()),
            preserve_fds: 0,
            scheduling: SchedulingPlan::from_spec(process, linux),
            listener: None,
        }
    }

    /// Finds the program inside the container, so that `create` fails where it is missing.
    pub(super) fn find_program(&self) -> Result<PathBuf, ProcessError> {
        let name = self.args.first().map_or("", String::as_str);
        if name.is_empty() {
            return Err(ProcessError::NotFound(name.to_owned()));
        }
        if name.contains('/') {
            return check_executable(&self.cwd.join(name), name);
        }
        let mut found_unusable = false;
        for folder in self.search_path().split(':') {
            let folder = if folder.is_empty() { "." } else { folder };
            match check_executable(&Path::new(folder).join(name), name) {
                Ok(path) => return Ok(path),
                Err(ProcessError::NotExecutable(_)) => found_unusable = true,
                Err(_) => {}
            }
        }
        let name = name.to_owned();
        Err(if found_unusable {
            ProcessError::NotExecutable(name)
        } else {
            ProcessError::NotFound(name)
        })
    }

    fn search_path(&self) -> &str {
        self.env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH)
    }

    /// Makes the working folder where the image has none, as runc does. Before ids are dropped.
    pub(super) fn make_working_folder(&self) -> Result<(), ProcessError> {
        match fs::create_dir_all(&self.cwd) {
            // On a read-only root: entering it will say that it is not there.
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
            other => other.during("make the working folder"),
        }
    }

    /// Everything between having entered the container and executing: see the drawing above.
    pub(super) fn prepare(&self) -> Result<(), ProcessError> {
        self.scheduling.apply()?;
        self.set_limits()?;
        if self.new_session_keyring {
            join_new_keyring()?;
        }
        if let Some(umask) = self.umask {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
        }
        self.make_working_folder()?;
        // Before the filter, which may forbid to ask where this is; again where the container's
        // user alone may enter it.
        let entered = self.enter_working_folder();
        if entered.is_ok() {
            verify_working_folder()?;
        }
        self.own_streams()?;
        if self.no_new_privileges {
            nix::sys::prctl::set_no_new_privs().during("set no_new_privs")?;
        }
        self.set_groups()?;
        // Before the filter: it may forbid this call.
        sys::close_on_exec_from(3 + self.preserve_fds).during("close descriptors")?;
        if !self.no_new_privileges {
            self.load_seccomp()?;
        }
        self.drop_privileges()?;
        if entered.is_err() {
            self.enter_working_folder()?;
            verify_working_folder()?;
        }
        // Whoever answers must have the listener before anything waits for an answer.
        if self.no_new_privileges && self.listener.is_some() {
            self.load_seccomp()?;
        }
        Ok(())
    }

    /// Runs the program. Returns only when that failed.
    pub(super) fn execute(&self, program: &Path) -> ProcessError {
        match self.try_execute(program) {
            Ok(never) => match never {},
            Err(e) => e,
        }
    }

    fn try_execute(&self, program: &Path) -> Result<std::convert::Infallible, ProcessError> {
        let path = c_string(program.as_os_str().as_bytes())?;
        let args =
            self.args.iter().map(|a| c_string(a.as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let env = environment::complete(&self.env, self.uid)
            .iter()
            .map(|e| c_string(e.as_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        sys::reset_signals();
        nix::unistd::execve(&path, &args, &env).map_err(|e| ProcessError::Execute {
            program: program.display().to_string(),
            error: e.into(),
        })
    }

    /// Sets the resource limits of this process: while it may still raise them.
    pub(super) fn set_limits(&self) -> Result<(), ProcessError> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        self.limits.iter().try_for_each(|limit| limit.apply(own))
    }

    fn enter_working_folder(&self) -> Result<(), ProcessError> {
        std::env::set_current_dir(&self.cwd).during("enter the working folder")
    }

    /// Gives streams that are nobody else's business (a terminal, a pipe) to the container's user.
    fn own_streams(&self) -> Result<(), ProcessError> {
        if self.uid == 0 {
            return Ok(());
        }
        for stream in
            [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()]
        {
            let Ok(file) = stream.try_clone_to_owned().map(File::from) else { continue };
            let Ok(metadata) = file.metadata() else { continue };
            let is_null = metadata.file_type().is_char_device()
                && metadata.rdev() == rustix::fs::makedev(1, 3);
            if is_null || metadata.uid() == self.uid {
                continue;
            }
            match std::os::unix::fs::fchown(&file, Some(self.uid), None) {
                // Not in the container's mappings, on a read-only file system, or a kind of file
                // that has no owner: the process can still use the descriptor.
                Err(e)
                    if matches!(
                        e.raw_os_error(),
                        Some(libc::EINVAL | libc::EPERM | libc::EROFS | libc::ENOSYS)
                    ) => {}
                other => other.during("give the standard streams to the container's user")?,
            }
        }
        Ok(())
    }

    fn set_groups(&self) -> Result<(), ProcessError> {
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        match nix::unistd::setgroups(&groups) {
            // A user namespace made without privilege: the kernel allows no change, and there is
            // nothing to set.
            Err(nix::errno::Errno::EPERM) if groups.is_empty() => Ok(()),
            other => other.during("set the supplementary groups"),
        }
    }

    /// With no_new_privs the filter is loaded as late as can be, so that it need not allow what is
    /// done before.
    pub(super) fn load_late_seccomp(&self) -> Result<(), ProcessError> {
        let is_late = self.no_new_privileges && self.listener.is_none();
        if is_late { self.load_seccomp() } else { Ok(()) }
    }

    fn load_seccomp(&self) -> Result<(), ProcessError> {
        SECCOMP.with_borrow(|program| match (&self.seccomp, program) {
            (None, _) => Ok(()),
            (Some(file), Some(program)) => {
                let listener = sys::load_seccomp(program, file.flags);
                self.announce(listener.during("load the seccomp filter")?)
            }
            (Some(_), None) => Err(io::Error::from(io::ErrorKind::NotFound))
                .during("load the seccomp filter before it was read"),
        })
    }

    fn announce(&self, descriptor: i32) -> Result<(), ProcessError> {
        LISTENER.with_borrow(|socket| match socket {
            Some(socket) => listener::announce(socket.as_fd(), descriptor)
                .during("hand over the seccomp listener"),
            None => Ok(()),
        })
    }

    /// Reads the filter into memory: to be done while the host's files are still in reach.
    pub(super) fn read_seccomp(&self) -> Result<(), ProcessError> {
        if let Some(file) = &self.seccomp {
            let bytes = fs::read(&file.path).during("read the seccomp filter")?;
            SECCOMP.set(Some(bytes));
        }
        if let Some(number) = self.listener {
            LISTENER.set(Some(sys::inherited(number).during("find the listener's connection")?));
        }
        Ok(())
    }

    fn drop_privileges(&self) -> Result<(), ProcessError> {
        let plan = &self.capabilities;
        let bounding = caps::read(None, CapSet::Bounding).map_err(capability_error)?;
        for capability in bounding.difference(&to_set(plan.bounding)) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(capability_error)?;
        }
        nix::sys::prctl::set_keepcaps(true).during("keep capabilities over the change of user")?;
        let (gid, uid) = (Gid::from_raw(self.gid), Uid::from_raw(self.uid));
        nix::unistd::setresgid(gid, gid, gid).during("set the group")?;
        nix::unistd::setresuid(uid, uid, uid).during("set the user")?;
        nix::sys::prctl::set_keepcaps(false).during("let go of kept capabilities")?;
        set_capabilities(plan).map_err(capability_error)
    }
}

thread_local! {
    /// The filter's instructions, from the moment that they are read until they are loaded. Not in
    /// the plan: that travels as text.
    static SECCOMP: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };

    /// Where the listener is announced.
    static LISTENER: RefCell<Option<OwnedFd>> = const { RefCell::new(None) };
}

impl CapabilityPlan {
    /// The spec's sets. What the kernel would refuse is taken out here: ambient needs permitted and
    /// inheritable.
    pub(super) fn from_spec(spec: &LinuxCapabilities) -> Self {
        let permitted = to_mask(spec.permitted().as_ref());
        let inheritable = to_mask(spec.inheritable().as_ref());
        for capability in to_set(to_mask(spec.ambient().as_ref()) & !(permitted & inheritable)) {
            // The words are runc's.
            tracing::warn!(
                "can't raise ambient capability {capability}: not permitted and inheritable"
            );
        }
        Self {
            bounding: to_mask(spec.bounding().as_ref()),
            effective: to_mask(spec.effective().as_ref()),
            permitted,
            inheritable,
            ambient: to_mask(spec.ambient().as_ref()) & permitted & inheritable,
        }
    }
}

/// The caller's own hard limit of a resource; absent: none.
pub(super) fn hard_limit(resource: PosixRlimitType) -> Option<u64> {
    sys::hard_limit(resource_number(resource)).ok().filter(|limit| *limit != libc::RLIM_INFINITY)
}

impl Limit {
    fn from_spec(limit: &PosixRlimit) -> Self {
        Self { resource: resource_number(limit.typ()), soft: limit.soft(), hard: limit.hard() }
    }

    /// Sets it for a process.
    pub(super) fn apply(&self, pid: i32) -> Result<(), ProcessError> {
        sys::set_limit(pid, self.resource, self.soft, self.hard).during("set a resource limit")
    }
}

fn resource_number(resource: PosixRlimitType) -> u32 {
    match resource {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

fn to_mask(capabilities: Option<&Capabilities>) -> u64 {
    capabilities.into_iter().flatten().fold(0, |mask, c| mask | c.to_cap().bitmask())
}

fn to_set(mask: u64) -> CapsHashSet {
    caps::all().into_iter().filter(|c: &Capability| mask & c.bitmask() != 0).collect()
}

/// Permitted goes last but for ambient: a thread may not raise a set above it.
fn set_capabilities(plan: &CapabilityPlan) -> Result<(), caps::errors::CapsError> {
    let available = caps::read(None, CapSet::Permitted)?;
    let within = |mask| to_set(mask).intersection(&available).copied().collect::<CapsHashSet>();
    // Back into effect what the change of user took out of it: the next steps need CAP_SETPCAP.
    caps::set(None, CapSet::Effective, &available)?;
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Inheritable, &within(plan.inheritable))?;
    caps::set(None, CapSet::Effective, &within(plan.effective & plan.permitted))?;
    caps::set(None, CapSet::Permitted, &within(plan.permitted))?;
    for capability in within(plan.ambient) {
        caps::raise(None, CapSet::Ambient, capability)?;
    }
    Ok(())
}

fn capability_error(source: caps::errors::CapsError) -> ProcessError {
    ProcessError::Step { step: "set the capabilities", source: io::Error::other(source) }
}

fn join_new_keyring() -> Result<(), ProcessError> {
    match sys::new_session_keyring() {
        // A kernel without keyrings, or a host that forbids them to this process: then the
        // container's processes cannot use one either.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        other => other.during("make a session keyring"),
    }
}

fn check_executable(path: &Path, name: &str) -> Result<PathBuf, ProcessError> {
    match fs::metadata(path) {
        Ok(m) if m.is_file() && m.mode() & 0o111 != 0 => Ok(path.to_owned()),
        Ok(_) => Err(ProcessError::NotExecutable(name.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Err(ProcessError::NotExecutable(name.to_owned()))
        }
        Err(_) => Err(ProcessError::NotFound(name.to_owned())),
    }
}

/// A working folder that is not below the root would be a way out: its name then does not begin
/// with a slash.
fn verify_working_folder() -> Result<(), ProcessError> {
    let cwd = nix::unistd::getcwd().during("read the working folder")?;
    if cwd.is_absolute() {
        return Ok(());
    }
    Err(io::Error::from(io::ErrorKind::NotFound)).during("stay outside the container's root")
}

fn c_string(bytes: &[u8]) -> Result<CString, ProcessError> {
    CString::new(bytes)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
        .during("pass on a text with a zero byte in it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambient_capabilities_that_the_kernel_would_refuse_are_not_asked_for() {
        let spec: LinuxCapabilities = serde_json::from_value(serde_json::json!({
            "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL", "CAP_CHOWN"],
        }))
        .unwrap();
        let plan = CapabilityPlan::from_spec(&spec);
        assert_eq!(plan.ambient, Capability::CAP_KILL.bitmask());
        assert_eq!(plan.bounding, 0);
    }

    #[test]
    fn a_missing_and_an_unusable_program_are_told_apart() {
        let plan = |program: &str| {
            let mut process = Process::default();
            process.set_args(Some(vec![program.to_owned()]));
            ProcessPlan::from_spec(&process, None, None)
        };
        let kind = |program| plan(program).find_program().map_err(|e| e.kind());
        assert_eq!(kind("no-such-program"), Err(Some(StartFailureKind::NotFound)));
        assert_eq!(kind("/etc/passwd"), Err(Some(StartFailureKind::NotExecutable)));
        assert_eq!(kind("/etc"), Err(Some(StartFailureKind::NotExecutable)));
        assert!(kind("sh").is_ok());
    }
}
