//! Making a container, for `create` and `run`: all or nothing.
//!
//! ```text
//!   check ─▶ claim ─▶ sandbox ─▶ hooks ─▶ console ─▶ pid file ─▶ record ─▶ Creation
//!     │        │         │         │         │           │          │
//!     └────────┴─────────┴─────────┴─────────┴───────────┴──────────┴─▶ undone, last first
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use cofferdam_protocol::id::ContainerId;
use oci_spec::runtime::Spec;

use crate::cli::CreateArgs;
use crate::commands::pod::{self, Pod, PodError};
use crate::commands::{Context, IdError, checkpoint, parse_id};
use crate::config::{Config, ConfigError};
use crate::figures::{self, Phase, Timed};
use crate::host::hooks::{self, HookError};
use crate::host::log::with_causes;
use crate::host::network_namespace;
use crate::host::process::ProcessIdentity;
use crate::host::replace::replace_file;
use crate::host::signals::{Interrupted, Interrupts};
use crate::host::stdio::ProcessStdio;
use crate::host::terminal::{self, HandOverError};
use crate::host::undo::Undo;
use crate::host::user::User;
use crate::isolation::{self, Effective, IsolationError};
use crate::kind::SandboxKind;
use crate::sandbox::microvm::NetworkError;
use crate::sandbox::request::{CreateRequest, ImageRequest, StartFailureKind};
use crate::sandbox::{self, CreateError};
use crate::spec::rootfs::{self, RootfsError};
use crate::spec::rules::{self, InvalidSpec};
use crate::spec::{self, LoadedSpec, SpecError};
use crate::state::record::Record;
use crate::state::status::Status;
use crate::state::store::{Entry, Lock, StoreError};
use crate::{plan, probe, timestamp};

/// Why no container was made.
#[derive(Debug, thiserror::Error)]
pub enum CreationError {
    /// The id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The operator's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The bundle's folder.
    #[error("Cannot find the bundle {path}")]
    Bundle {
        /// As the flag has it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration cannot be had.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// It is wrong.
    #[error("Invalid config.json")]
    Invalid(#[from] InvalidSpec),
    /// The root file system.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The terminal and the flags about it contradict each other.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// No isolation that everyone accepts.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    /// Its pod.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The state folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] CreateError),
    /// A hook.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The network that hooks have made.
    #[error("The container cannot be connected")]
    Network(#[from] NetworkError),
    /// The console socket, or that of `--pidfd-socket`.
    #[error(transparent)]
    HandOver(#[from] HandOverError),
    /// Ctrl-C, or whoever wants it to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Anything else of the host.
    #[error("Cannot {step}")]
    Host {
        /// In words that complete `cannot …`.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl CreationError {
    /// Whether it is the program's own fault.
    #[must_use]
    pub fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::Sandbox(error) => error.start_failure(),
            _ => None,
        }
    }
}

/// The spec's `terminal` and the flags about it do not go together. The words are runc's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsoleError {
    /// A terminal that nobody would have.
    #[error("cannot allocate tty if runc will detach without setting console socket")]
    NoSocket,
    /// A socket that would get nothing.
    #[error("cannot use console socket if runc will not detach or allocate tty")]
    NoTerminal,
}

/// Who has the container's terminal once it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TerminalOwner {
    /// Whoever listens on the console socket.
    ConsoleSocket,
    /// The caller, who stays.
    Caller,
}

impl TerminalOwner {
    /// Whether that is possible with these flags.
    pub(super) fn check(self, terminal: bool, socket: Option<&Path>) -> Result<(), ConsoleError> {
        match (self, terminal, socket) {
            (Self::ConsoleSocket, true, None) => Err(ConsoleError::NoSocket),
            (Self::ConsoleSocket, false, Some(_)) | (Self::Caller, _, Some(_)) => {
                Err(ConsoleError::NoTerminal)
            }
            (Self::ConsoleSocket, true, Some(_))
            | (Self::ConsoleSocket, false, None)
            | (Self::Caller, _, None) => Ok(()),
        }
    }
}

/// A container that was made and not started.
#[derive(Debug)]
pub(super) struct Creation {
    /// As it is on disk.
    pub(super) entry: Entry,
    /// Still held.
    pub(super) lock: Lock,
    /// For the caller, if the caller has it.
    pub(super) terminal: Option<OwnedFd>,
    /// For the hooks of later moments.
    pub(super) spec: Spec,
    /// It goes on from an image, and waits to be resumed.
    pub(super) restored: bool,
}

/// Everything that was checked; nothing is done yet.
struct Checked {
    id: ContainerId,
    config: Config,
    bundle: PathBuf,
    rootfs: PathBuf,
    loaded: LoadedSpec,
    effective: Effective,
    pod: Pod,
    owner: TerminalOwner,
}

/// Makes a container.
pub(super) fn create(
    context: &Context,
    args: &CreateArgs,
    owner: TerminalOwner,
    interrupts: &Interrupts,
) -> Result<Creation, CreationError> {
    let begun = Instant::now();
    let checked = check(context, args, owner)?;
    let kind = checked.effective.kind;
    figures::time(Timed::Phase(kind, Phase::Check), begun.elapsed());
    if let Some(warning) = &checked.effective.warning {
        tracing::warn!("{warning}");
    }
    interrupts.check()?;
    let mut undo = Undo::new();
    let (mut entry, lock) = claim(context, &checked, &mut undo)?;
    spec::write_copy(&entry.folder, &checked.loaded.bytes)?;
    let request = request(context, args, &checked, &entry, interrupts)?;
    let begun = Instant::now();
    let mut created = sandbox::create(kind, request, &checked.config)?;
    figures::time(Timed::Phase(kind, Phase::Sandbox), begun.elapsed());
    entry.record.process = Some(created.process);
    let sandbox = entry.sandbox();
    undo.push(move || {
        if let Err(error) = sandbox::delete(kind, &sandbox) {
            tracing::warn!("{}", with_causes(&error));
        }
    });
    entry.record.notes.extend(std::mem::take(&mut created.notes));
    interrupts.check()?;
    run_hooks(kind, &checked.loaded.spec, &entry.record)?;
    if checked.loaded.spec.hooks().is_some() {
        // They may have connected it.
        sandbox::follow_network(kind, &entry.sandbox(), args.restore.is_some())?;
    }
    interrupts.check()?;
    let terminal = hand_over_terminal(created.terminal, args.console_socket.as_deref())?;
    if let Some(socket) = &args.pidfd_socket {
        terminal::send_pidfd(socket, created.process.pid)?;
    }
    write_pid_file(args.pid_file.as_deref(), created.process.pid, &mut undo)?;
    entry.record.phase = Status::Created;
    entry.save(&lock)?;
    interrupts.check()?;
    undo.commit();
    figures::made(identity(&entry.record).as_ref(), kind);
    let restored = args.restore.is_some();
    Ok(Creation { entry, lock, terminal, spec: checked.loaded.spec, restored })
}

/// By what a container is known again that was deleted and is made once more: its id, or what it is
/// called in its pod, since Kubernetes gives it another id each time.
pub(super) fn identity(record: &Record) -> Cow<'_, str> {
    let of = |key: &str| record.annotations.get(key);
    match (of(CRI_SANDBOX), of(CRI_CONTAINER)) {
        // No id has the separator.
        (Some(sandbox), Some(name)) => Cow::Owned(format!("{sandbox}/{name}")),
        _ => Cow::Borrowed(record.id.as_str()),
    }
}

const CRI_SANDBOX: &str = "io.kubernetes.cri.sandbox-id";
const CRI_CONTAINER: &str = "io.kubernetes.cri.container-name";

fn check(
    context: &Context,
    args: &CreateArgs,
    owner: TerminalOwner,
) -> Result<Checked, CreationError> {
    let id = parse_id(&args.target.id)?;
    let config = Config::load(context.global.config.as_deref())?;
    let bundle = fs::canonicalize(&args.bundle)
        .map_err(|source| CreationError::Bundle { path: args.bundle.clone(), source })?;
    let mut loaded = spec::load(&bundle)?;
    if context.global.compat {
        rules::complete_paths(&mut loaded.spec);
    }
    let spec = &loaded.spec;
    check_rules(context, spec)?;
    owner.check(wants_terminal(spec), args.console_socket.as_deref())?;
    // The rules have seen that there is a root.
    let root_path = spec.root().as_ref().map_or(Path::new(""), |root| root.path().as_path());
    let rootfs = rootfs::resolve(&bundle, root_path)?;
    let pod = pod::find(&context.store, spec, &id, config.microvm.joined_network)?;
    let effective = decide(context, &config, &pod, pod.inside().unwrap_or(spec));
    let effective = effective.map_err(|error| match pod.explain(&error) {
        Some(reason) => CreationError::Pod(reason),
        None => CreationError::Isolation(error),
    })?;
    pod.check(&effective)?;
    if rules::shares_mounts(spec) {
        tracing::warn!("{}: its mounts are the host's", InvalidSpec::NoMountNamespace);
    }
    Ok(Checked { id, config, bundle, rootfs, loaded, effective, pod, owner })
}

/// As runc, `--compat` takes a container that mounts on the host.
fn check_rules(context: &Context, spec: &Spec) -> Result<(), InvalidSpec> {
    match rules::check(spec) {
        Err(InvalidSpec::NoMountNamespace)
            if context.global.compat && !rules::has_user_namespace(spec) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn decide(
    context: &Context,
    config: &Config,
    pod: &Pod,
    spec: &Spec,
) -> Result<Effective, IsolationError> {
    let annotations = spec.annotations().as_ref();
    let asked = isolation::Asked {
        config: &config.isolation,
        flag: context.global.isolation,
        annotation: annotations
            .and_then(|annotations| annotations.get(isolation::ANNOTATION))
            .map(String::as_str),
    };
    let mut refused = plan::unsupported(spec);
    refused.extend(plan::own_users::refused(spec, User::current()));
    refused.extend(plan::hosts_network(spec, network_namespace::is_hosts));
    refused.extend(pod.refused());
    isolation::decide(asked, refused, || probe::require_fit(&config.microvm))
}

fn claim(
    context: &Context,
    checked: &Checked,
    undo: &mut Undo<'_>,
) -> Result<(Entry, Lock), CreationError> {
    let own = std::process::id().cast_signed();
    let creator = ProcessIdentity::of(own)
        .map_err(|source| CreationError::Host { step: "read /proc/self/stat", source })?;
    let spec = &checked.loaded.spec;
    let annotations: BTreeMap<String, String> =
        spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    let Effective { kind, reason, .. } = &checked.effective;
    let notes = [
        (isolation::ANNOTATION_EFFECTIVE, kind.name()),
        (isolation::ANNOTATION_REASON, reason.as_str()),
    ];
    let (entry, lock) = context.store.claim(Record {
        oci_version: spec.version().clone(),
        id: checked.id.clone(),
        phase: Status::Creating,
        paused: false,
        creator,
        process: None,
        isolation: *kind,
        bundle: checked.bundle.clone(),
        rootfs: checked.rootfs.clone(),
        created: timestamp::now(),
        annotations,
        notes: notes.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    })?;
    let folder = entry.folder.clone();
    undo.push(move || {
        if let Err(error) = crate::state::store::remove_folder(&folder) {
            tracing::warn!("{}", with_causes(&error));
        }
    });
    Ok((entry, lock))
}

fn request(
    context: &Context,
    args: &CreateArgs,
    checked: &Checked,
    entry: &Entry,
    interrupts: &Interrupts,
) -> Result<CreateRequest, CreationError> {
    Ok(CreateRequest {
        id: checked.id.clone(),
        bundle: checked.bundle.clone(),
        rootfs: checked.rootfs.clone(),
        spec: checked.loaded.spec.clone(),
        state_folder: entry.folder.clone(),
        stdio: stdio(&checked.loaded.spec, checked.owner)?,
        systemd_cgroup: context.global.systemd_cgroup,
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        preserve_fds: args.preserve_fds,
        compat: context.global.compat,
        interrupts: interrupts.clone(),
        pod: checked.pod.part(),
        restore: image(args)?,
    })
}

/// What `restore` goes on from.
fn image(args: &CreateArgs) -> Result<Option<ImageRequest>, CreationError> {
    let request = args.restore.as_deref().map(checkpoint::restore_request).transpose();
    request.map_err(|source| CreationError::Host { step: "find the folder of the image", source })
}

fn stdio(spec: &Spec, owner: TerminalOwner) -> Result<ProcessStdio, CreationError> {
    if !wants_terminal(spec) {
        return ProcessStdio::inherited()
            .map_err(|source| CreationError::Host { step: "duplicate standard streams", source });
    }
    let process = spec.process().as_ref();
    let size = process.and_then(terminal_size);
    Ok(ProcessStdio::Terminal { size, relayed: owner == TerminalOwner::Caller })
}

/// The size that the configuration asks for, or that of the user's own terminal.
pub(super) fn terminal_size(process: &oci_spec::runtime::Process) -> Option<(u16, u16)> {
    let small = |size: u64| u16::try_from(size).ok().filter(|size| *size != 0);
    let asked = process.console_size();
    asked.and_then(|size| Some((small(size.height())?, small(size.width())?))).or_else(|| {
        terminal::window_size(io::stdin().as_fd()).map(|size| (size.rows, size.columns))
    })
}

fn wants_terminal(spec: &Spec) -> bool {
    spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false)
}

/// The hooks of the creation, in a microVM's case: `libcontainer` runs those of namespaces.
fn run_hooks(kind: SandboxKind, spec: &Spec, record: &Record) -> Result<(), HookError> {
    let (SandboxKind::Microvm, Some(of_spec)) = (kind, spec.hooks()) else { return Ok(()) };
    // The old moment is of the time when everything is made; the new one of making it.
    let (created, creating) =
        (record.hook_view(Status::Created), record.hook_view(Status::Creating));
    #[allow(deprecated, reason = "engines still write prestart hooks")]
    hooks::run_all("prestart", of_spec.prestart().as_ref(), &created)?;
    hooks::run_all("createRuntime", of_spec.create_runtime().as_ref(), &creating)
}

/// Sends the terminal to the console socket, if there is one; else it is the caller's.
pub(super) fn hand_over_terminal(
    terminal: Option<OwnedFd>,
    socket: Option<&Path>,
) -> Result<Option<OwnedFd>, HandOverError> {
    let Some(master) = &terminal else { return Ok(None) };
    let Some(socket) = socket else {
        // Without it the container's lines are shown all the same, with one return too many.
        if let Err(error) = terminal::keep_line_feeds(master.as_fd()) {
            tracing::debug!("Cannot change the terminal's mode: {error}");
        }
        return Ok(terminal);
    };
    terminal::send_to_console_socket(socket, master.as_fd())?;
    Ok(None)
}

fn write_pid_file(path: Option<&Path>, pid: i32, undo: &mut Undo<'_>) -> Result<(), CreationError> {
    const WORLD_READABLE: u32 = 0o644;
    let Some(path) = path.map(Path::to_path_buf) else { return Ok(()) };
    replace_file(&path, pid.to_string().as_bytes(), WORLD_READABLE)
        .map_err(|source| CreationError::Host { step: "write the pid file", source })?;
    undo.push(move || {
        let _ = fs::remove_file(path);
    });
    Ok(())
}
