//! `delete`: what containerd calls when a shim is gone. The container is ended with everything that
//! it had, and containerd is told how it ended.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{self, Message};

use crate::arguments::Flags;
use crate::bootstrap;
use crate::events::timestamp;
use crate::logger;
use crate::options::{OptionError, Options};
use crate::pod_files::PodFiles;
use crate::rootfs;
use crate::runtime::{Runtime, RuntimeError};
use crate::sandbox;
use crate::socket::{self, Address};

/// SIGKILL's, as a shell has it: nobody saw another.
const KILLED: u32 = 137;

/// Why something may be left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CleanupError {
    /// Standard input.
    #[error("Cannot read what containerd says")]
    Input(#[source] io::Error),
    /// The runtime's options.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// The options that the container was made with.
    #[error("Cannot read the options that the container was made with")]
    Saved(#[source] io::Error),
    /// The container.
    #[error("Cannot delete the container {0}")]
    Runtime(String, #[source] RuntimeError),
    /// The answer.
    #[error("Cannot encode the answer")]
    Encode(#[from] protobuf::Error),
    /// Nobody reads it.
    #[error("Cannot write the answer")]
    Answer(#[source] io::Error),
}

/// Ends and deletes the container, and takes its mounts away.
///
/// # Errors
/// What is left.
pub(crate) fn delete(flags: &Flags) -> Result<(), CleanupError> {
    let call = bootstrap::read_call(flags).map_err(CleanupError::Input)?;
    let bundle = flags.bundle.clone().unwrap_or_else(|| PathBuf::from("."));
    let told = Options::of(call.options.as_ref())?;
    // A failure of one's is told when everybody else is taken away.
    let mut taken = Ok(());
    for (id, bundle) in sandbox::members(&bundle) {
        taken = taken.and(take_away(&id, &bundle, flags, &told));
    }
    taken.and(take_away(&flags.id, &bundle, flags, &told))?;
    let answer = DeleteResponse {
        exit_status: KILLED,
        exited_at: timestamp(SystemTime::now()),
        ..Default::default()
    };
    io::stdout().write_all(&answer.write_to_bytes()?).map_err(CleanupError::Answer)
}

fn take_away(id: &str, bundle: &Path, flags: &Flags, told: &Options) -> Result<(), CleanupError> {
    // Those that it was made with.
    let saved = Options::saved(bundle).map_err(CleanupError::Saved)?;
    let runtime = Runtime::of(saved.as_ref().unwrap_or(told), &flags.namespace);
    // One that is not there is no error to `delete --force`.
    let deleted = runtime.run_here(&["delete", "--force", id]);
    rootfs::unmount(&bundle.join("rootfs"));
    PodFiles::of(bundle).unmount();
    // A killed shim's. That of a pod may be another container's, and alive.
    if let Ok(address) = fs::read_to_string(bundle.join(socket::FILE)) {
        Address::from_url(&address).remove_if_dead();
    }
    logger::end_all(bundle);
    deleted.map(drop).map_err(|error| CleanupError::Runtime(id.to_owned(), error))
}
