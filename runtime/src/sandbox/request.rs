//! What the verbs ask of a sandbox, and what they get: the same types for both kinds.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use cofferdam_protocol::id::ContainerId;
use oci_spec::runtime::Spec;

use crate::host::process::ProcessIdentity;
use crate::host::signals::Interrupts;
use crate::host::stdio::ProcessStdio;
use crate::plan::pod::Joined;
use crate::spec::SpecError;
use crate::spec::resources::ResourceChange;

/// A container to be made. Everything in it is validated: the bundle exists, the spec has passed
/// [`crate::spec`], the id is free and its state folder made.
#[derive(Debug)]
pub struct CreateRequest {
    /// The container.
    pub id: ContainerId,
    /// Absolute, symbolic links resolved.
    pub bundle: PathBuf,
    /// Absolute, symbolic links resolved: the container's root file system on the host.
    pub rootfs: PathBuf,
    /// The container's configuration, as the bundle says it.
    pub spec: Spec,
    /// `<root>/<id>`: everything that the sandbox keeps on disk is below this.
    pub state_folder: PathBuf,
    /// What the container's process is connected to.
    pub stdio: ProcessStdio,
    /// `--systemd-cgroup`.
    pub systemd_cgroup: bool,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// `--preserve-fds`: this many descriptors from 3 on reach the container.
    pub preserve_fds: u32,
    /// `--compat`: none of the hardening's additions.
    pub compat: bool,
    /// Ends a wait for the guest.
    pub interrupts: Interrupts,
    /// Its part in a pod.
    pub pod: Option<PodPart>,
    /// The container goes on from an image instead of beginning, and is frozen until it is resumed.
    pub restore: Option<ImageRequest>,
}

/// A container's part in a pod of microVMs. In namespaces the engine's paths are all there is to it.
#[derive(Debug)]
pub enum PodPart {
    /// Others may join its machine.
    Sandbox,
    /// It joins a machine.
    Member(Box<PodMember>),
}

/// A container that joins a machine.
#[derive(Debug)]
pub struct PodMember {
    /// The container that the machine was made for.
    pub sandbox: SandboxRef,
    /// The configuration, as it is there.
    pub joined: Joined,
}

/// An image of a container, to be written or to go on from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageRequest {
    /// Its folder, absolute.
    pub image: PathBuf,
    /// Where work files and logs go.
    pub work: Option<PathBuf>,
    /// An earlier image.
    pub parent: Option<PathBuf>,
    /// The container runs on.
    pub leave_running: bool,
    /// The flags that were given beside these, by their names.
    pub flags: Vec<(&'static str, Option<String>)>,
}

/// A sandbox that was made.
#[derive(Debug)]
pub struct Created {
    /// The host process that lives exactly as long as the sandbox: the container's init in
    /// namespaces, the monitor of a microVM. A child of the calling process.
    pub process: ProcessIdentity,
    /// The master side of the container's terminal, when it has one.
    pub terminal: Option<OwnedFd>,
    /// What `state` shows beside the standard fields (`dev.cofferdam.*`): hardening added, jail.
    pub notes: Vec<(String, String)>,
}

/// One more process in a running container.
#[derive(Debug)]
pub struct ExecRequest {
    /// The container.
    pub id: ContainerId,
    /// The bundle that it was made from.
    pub bundle: PathBuf,
    /// `<root>/<id>`.
    pub state_folder: PathBuf,
    /// The process, complete: what the flags or `--process` said, over the spec's own process.
    pub process: oci_spec::runtime::Process,
    /// The container's own configuration (seccomp and so on hold for its processes as well).
    pub spec: Spec,
    /// What it is connected to.
    pub stdio: ProcessStdio,
    /// `--preserve-fds`.
    pub preserve_fds: u32,
    /// `--cgroup`: groups below the container's own, each `PATH` or `CONTROLLER,...:PATH`.
    pub cgroup: Vec<String>,
}

/// A signal for a container.
#[derive(Clone, Copy, Debug)]
pub struct KillRequest {
    /// The number, 1 to 64.
    pub signal: i32,
    /// Every process, not just the first.
    pub all: bool,
}

/// Other limits for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateRequest {
    /// The limits.
    pub change: ResourceChange,
    /// `--l3-cache-schema`.
    pub l3_cache_schema: Option<String>,
    /// `--mem-bw-schema`.
    pub memory_bandwidth_schema: Option<String>,
}

/// What a watch of a container saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchOutcome {
    /// The time was up, or it was a false alarm.
    Nothing,
    /// The kernel ran out of the container's memory, so many times.
    OutOfMemory(u64),
    /// The container ended.
    Ended,
}

/// A process in a container, for `ps`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ProcessRow {
    /// In the namespace that the caller can see: the host's for namespaces, the guest's for a
    /// microVM.
    pub pid: u32,
    /// Parent.
    pub ppid: u32,
    /// User.
    pub uid: u32,
    /// Processor time in milliseconds.
    pub cpu_ms: u64,
    /// Start, milliseconds since the epoch.
    pub started_ms: u64,
    /// `pts/0`, or `?`.
    pub terminal: String,
    /// Command line.
    pub command: String,
}

/// A sandbox that was made earlier, as a later verb finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxRef {
    /// The container.
    pub id: ContainerId,
    /// `<root>/<id>`.
    pub state_folder: PathBuf,
    /// Where the bundle was at `create`.
    pub bundle: PathBuf,
    /// [`Created::process`], so that a reused number is not taken for it. Absent when `create` was cut
    /// before there was one: only `delete` meets that.
    pub process: Option<ProcessIdentity>,
}

impl SandboxRef {
    /// The configuration that the container was created with: the copy in the state folder.
    ///
    /// # Errors
    /// When the copy is gone or was damaged.
    pub fn spec(&self) -> Result<Spec, SpecError> {
        crate::spec::read_copy(&self.state_folder)
    }
}

/// Whether the caller of `exec` stays until the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// It stays, passes signals on, and ends with the process's exit code.
    Foreground,
    /// It leaves; [`ExecRequest::stdio`] stays connected.
    Detached,
}

/// Why a program could not be started, where that is the program's own fault. Each kind's
/// `CreateError`, `StartError` and `ExecError` says it by `fn start_failure(&self) ->
/// Option<StartFailureKind>`: the exit code comes from it, as a shell has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum StartFailureKind {
    /// No such program: 127. The error's text has runc's words `executable file not found in
    /// $PATH`, by which Docker and Podman know it.
    NotFound,
    /// It cannot be executed: 126. `permission denied`.
    NotExecutable,
}

// Each kind has its own `ExecStarted`, `Sync`, with the same five methods; `crate::sandbox` puts
// them into an enum:
//
//     pub fn pid(&self) -> i32
//         The process for the pid file: in namespaces the process, for a microVM the proxy of a
//         detached exec (or this process itself, which stays for a foreground one).
//     pub fn take_terminal(&mut self) -> Option<OwnedFd>
//         The master side, when the request asked for a terminal. Once.
//     pub fn wait(&self) -> Result<u8, WaitError>
//         Blocks until the process has ended and its output is with the caller (128 + signal as a
//         shell has it). In a foreground exec another thread may call the two below meanwhile.
//     pub fn signal(&self, signal: i32) -> Result<(), SignalError>
//     pub fn resize(&self, rows: u16, columns: u16) -> Result<(), ResizeError>
