//! `start`: a server for the bundle in the working folder, or the one that its pod has already.
//!
//! The socket listens before the server runs, and is the server's standard input: containerd may
//! connect at once, and no server is ever without its socket.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::arguments::Flags;
use crate::bootstrap;
use crate::group;
use crate::options::{OptionError, Options};
use crate::socket::{self, Address, Found};

/// The most that `oom_score_adj` can be.
const MAX_OOM_SCORE_ADJ: i32 = 1000;

/// Why there is no shim.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// Standard input.
    #[error("Cannot read what containerd says")]
    Input(#[source] io::Error),
    /// The configuration, the options or the address in it.
    #[error("Cannot use the bundle")]
    Bundle(#[source] io::Error),
    /// The runtime's options.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// The socket.
    #[error("Cannot listen on {0}")]
    Socket(String, #[source] io::Error),
    /// The server.
    #[error("Cannot start the shim's server")]
    Server(#[source] io::Error),
    /// The control group that the options name.
    #[error("Cannot move the shim into the control group {0}")]
    Group(String, #[source] io::Error),
    /// The answer.
    #[error("Cannot tell containerd the address")]
    Answer(#[source] io::Error),
}

/// Leaves a server behind and prints its address.
///
/// # Errors
/// What failed. No server is left then.
pub(crate) fn start(flags: &Flags) -> Result<(), LaunchError> {
    let call = bootstrap::read_call(flags).map_err(LaunchError::Input)?;
    let options = Options::of(call.options.as_ref())?;
    let bundle = Path::new(".");
    let group = group::of_bundle(bundle, &flags.id).map_err(LaunchError::Bundle)?;
    // For a sandbox, which is made without being told them once more.
    options.save(bundle).map_err(LaunchError::Bundle)?;
    let folder = call.socket_folder.as_deref();
    let address = Address::of(folder, &flags.address, &flags.namespace, &group);
    let failed = |error| LaunchError::Socket(address.url(), error);
    let tell = || {
        fs::write(socket::FILE, address.url()).map_err(LaunchError::Bundle)?;
        call.answer(&address.url()).map_err(LaunchError::Answer)
    };
    match address.claim().map_err(failed)? {
        Found::Theirs => tell(),
        Found::Ours(listener) => launch(flags, listener, &call.events_address, &options, tell)
            .inspect_err(|_| address.remove()),
    }
}

/// A server that containerd is not told of would stay for ever.
fn launch(
    flags: &Flags,
    listener: UnixListener,
    events_address: &str,
    options: &Options,
    tell: impl FnOnce() -> Result<(), LaunchError>,
) -> Result<(), LaunchError> {
    let mut server = spawn(flags, listener, events_address).map_err(LaunchError::Server)?;
    let known = confine(&server, options).and_then(|()| tell());
    if known.is_err() {
        let _ = server.kill();
        let _ = server.wait();
    }
    known
}

fn spawn(flags: &Flags, listener: UnixListener, events_address: &str) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["-namespace", &flags.namespace, "-id", &flags.id, "-address", &flags.address])
        .env("TTRPC_ADDRESS", events_address)
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Signals to containerd's group are not the shim's.
        .process_group(0);
    if flags.debug {
        command.arg("-debug");
    }
    command.spawn()
}

/// Its control group, when the options name one, and when memory runs out, the engine dies later.
fn confine(server: &Child, options: &Options) -> Result<(), LaunchError> {
    let pid = server.id();
    if let Some(group) = &options.shim_group {
        join_group(group, pid).map_err(|error| LaunchError::Group(group.clone(), error))?;
    }
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let own: i32 = own.trim().parse().unwrap_or_default();
    let score = (own + 1).min(MAX_OOM_SCORE_ADJ).to_string();
    fs::write(format!("/proc/{pid}/oom_score_adj"), score).map_err(LaunchError::Server)
}

/// In every hierarchy that has the group: one on v2, up to a dozen on v1.
fn join_group(group: &str, pid: u32) -> io::Result<()> {
    let (root, group) = (Path::new("/sys/fs/cgroup"), group.trim_start_matches('/'));
    let hierarchies = fs::read_dir(root)?.filter_map(|entry| Some(entry.ok()?.path()));
    let candidates = hierarchies.chain([root.to_owned()]).map(|folder| folder.join(group));
    let mut found = false;
    for file in candidates.map(|folder| folder.join("cgroup.procs")).filter(|file| file.exists()) {
        fs::write(file, pid.to_string())?;
        found = true;
    }
    found.then_some(()).ok_or_else(|| io::ErrorKind::NotFound.into())
}
