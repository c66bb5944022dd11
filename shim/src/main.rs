//! `containerd-shim-cofferdam-v2`: what containerd talks to instead of the runtime.
//!
//! ```text
//!  containerd ──▶ start ──▶ binds the socket, leaves a server behind, prints the address
//!             ──ttrpc────▶ server: task ──▶ container ──▶ process
//!                                  │            └──▶ stdio, console, logger: its streams
//!                    sandbox ─────┤    (where containerd leaves sandboxes to its shims)
//!                                  └──▶ runtime: one `cofferdam VERB` for each step
//!             ◀──ttrpc──── events
//!             ──▶ delete ─▶ the server is gone: takes away what it left
//! ```
//!
//! What this is: translation. It decides nothing about isolation and holds no state that the
//! runtime does not have; each step is the runtime's own command, so that what an engine gets is
//! what the command line does, in either isolation mode.
//!
//! What this is not: it reads no configuration but the names of a pod's shim and the runtime's
//! options, and never looks at what a container writes.
//!
//! Hostile: nothing. containerd is the operator's, and the runtime's answers are the host's.

mod arguments;
mod bootstrap;
mod cleanup;
mod console;
mod container;
mod cri;
mod events;
mod group;
mod launch;
mod log;
mod logger;
mod options;
mod output;
mod pause;
mod place;
mod pod;
mod pod_files;
mod process;
mod reaper;
mod relay;
mod rootfs;
mod runtime;
mod sandbox;
mod sandbox_service;
mod server;
mod shared;
mod socket;
mod statistics;
mod stdio;
mod step;
mod sys;
mod task;
mod told;
mod watch;

use std::error::Error;
use std::process::ExitCode;

use crate::arguments::{Action, ArgumentError, Flags};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Not a call of containerd's.
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    /// `start`.
    #[error(transparent)]
    Start(#[from] launch::LaunchError),
    /// `delete`.
    #[error(transparent)]
    Delete(#[from] cleanup::CleanupError),
    /// The server.
    #[error(transparent)]
    Serve(#[from] server::ServeError),
    /// `-info`.
    #[error(transparent)]
    Info(#[from] bootstrap::InfoError),
    /// The program of a pod's sandbox.
    #[error("Cannot wait for signals")]
    Pause(#[from] nix::errno::Errno),
}

fn main() -> ExitCode {
    let call = arguments::parse(std::env::args_os().skip(1)).map_err(Failure::from);
    match call.and_then(|(action, flags)| perform(&action, flags)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("containerd-shim-cofferdam-v2: {}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

fn perform(action: &Action, flags: Flags) -> Result<(), Failure> {
    match action {
        Action::Start => launch::start(&flags)?,
        Action::Delete => cleanup::delete(&flags)?,
        Action::Serve => server::serve(&flags)?,
        Action::Pause => pause::wait()?,
        Action::Info => bootstrap::print_info()?,
        Action::Version => println!("containerd-shim-cofferdam-v2 {}", env!("CARGO_PKG_VERSION")),
    }
    Ok(())
}

/// An error with its causes, as containerd shows it to a user.
fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
