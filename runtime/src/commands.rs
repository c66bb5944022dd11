//! The verbs: each a short module that finds the container, asks [`crate::state`] whether the verb
//! is allowed now, has [`crate::sandbox`] do it, and writes down what is so from then on.

mod checkpoint;
mod completion;
mod create;
mod creation;
mod delete;
mod doctor;
mod events;
mod exec;
mod failure;
mod features;
mod install;
mod kill;
mod list;
mod man;
mod metrics;
mod pause;
mod pod;
mod ps;
mod restore;
mod run;
mod spec;
mod start;
mod state;
mod table;
mod update;

use std::io::{self, Write};
use std::path::PathBuf;

use cofferdam_protocol::id::{ContainerId, InvalidContainerId};

use crate::cli::{Cli, GlobalArgs, Verb};
use crate::figures::{self, Counted};
use crate::places::{PlaceError, Places};
use crate::sandbox::request::StartFailureKind;
use crate::state::store::Store;

pub use checkpoint::CheckpointError;
pub use creation::CreationError;
pub use delete::DeleteError;
pub use events::EventsError;
pub use exec::ExecError;
pub use install::InstallError;
pub use kill::KillError;
pub use metrics::MetricsError;
pub use pause::PauseError;
pub use pod::PodError;
pub use ps::PsError;
pub use run::RunError;
pub use spec::WriteSpecError;
pub use start::StartError;
pub use state::LookUpError;
pub use update::UpdateError;

/// Every error of ours, with most verbs.
const EXIT_FAILURE: u8 = 1;
/// `exec` failed before the program ran.
const EXIT_EXEC_FAILURE: u8 = 255;
/// The program cannot be executed.
const EXIT_NOT_EXECUTABLE: u8 = 126;
/// There is no such program.
const EXIT_NOT_FOUND: u8 = 127;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// `create`, and the first half of `run`.
    #[error(transparent)]
    Create(#[from] CreationError),
    /// `start`.
    #[error(transparent)]
    Start(#[from] StartError),
    /// `state`, `list`.
    #[error(transparent)]
    LookUp(#[from] LookUpError),
    /// `kill`.
    #[error(transparent)]
    Kill(#[from] KillError),
    /// `pause` and `resume`.
    #[error(transparent)]
    Pause(#[from] PauseError),
    /// `checkpoint`.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// `update`.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// `events`.
    #[error(transparent)]
    Events(#[from] EventsError),
    /// `delete`.
    #[error(transparent)]
    Delete(#[from] DeleteError),
    /// `run`, from its second half on.
    #[error(transparent)]
    Run(#[from] RunError),
    /// `exec`.
    #[error("exec failed")]
    Exec(#[from] ExecError),
    /// `ps`.
    #[error(transparent)]
    Ps(#[from] PsError),
    /// `spec`.
    #[error(transparent)]
    Spec(#[from] WriteSpecError),
    /// `doctor`.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// `install`.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// `metrics`.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Nowhere to keep the containers' state.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Standard output, or a manual page, refuses.
    #[error("Cannot write the output")]
    Output(#[source] io::Error),
}

impl CommandError {
    /// The exit code, as runc and a shell have it; with `--compat` as runc alone has it.
    #[must_use]
    pub fn exit_code(&self, compat: bool) -> u8 {
        let start_failure = match self {
            Self::Create(error) => error.start_failure(),
            Self::Start(error) => error.start_failure(),
            Self::Run(error) => error.start_failure(),
            Self::Exec(error) => error.start_failure(),
            Self::LookUp(_)
            | Self::Kill(_)
            | Self::Pause(_)
            | Self::Checkpoint(_)
            | Self::Events(_)
            | Self::Update(_)
            | Self::Delete(_)
            | Self::Ps(_)
            | Self::Spec(_)
            | Self::Config(_)
            | Self::Install(_)
            | Self::Metrics(_)
            | Self::Place(_)
            | Self::Output(_) => None,
        };
        match (start_failure, self) {
            (Some(_), Self::Exec(_)) if compat => EXIT_EXEC_FAILURE,
            (Some(StartFailureKind::NotFound), _) => EXIT_NOT_FOUND,
            (Some(StartFailureKind::NotExecutable), _) => EXIT_NOT_EXECUTABLE,
            (None, Self::Exec(_)) => EXIT_EXEC_FAILURE,
            (None, _) => EXIT_FAILURE,
        }
    }
}

/// What every verb has.
#[derive(Debug)]
struct Context {
    global: GlobalArgs,
    store: Store,
}

/// Does what the command line says; the exit code of the program that it ran, or 0.
///
/// # Errors
/// What failed. Nothing half done is left then.
pub fn run(cli: Cli) -> Result<u8, CommandError> {
    let verb = failure::verb(&cli.verb);
    let outcome = obey(cli);
    if let (Some(verb), Err(error)) = (verb, &outcome) {
        figures::count(Counted::Failure(verb, failure::reason(error)));
    }
    outcome
}

fn obey(cli: Cli) -> Result<u8, CommandError> {
    let root = match &cli.global.root {
        Some(root) => root.clone(),
        None => default_root()?,
    };
    // Other processes, with other working folders, are told this path.
    let root = std::path::absolute(&root).unwrap_or(root);
    let context = Context { store: Store::new(root), global: cli.global };
    match cli.verb {
        Verb::Create(args) => create::run(&context, &args)?,
        Verb::Start(args) => start::run(&context, &args)?,
        Verb::State(args) => state::run(&context, &args)?,
        Verb::Kill(args) => kill::run(&context, &args)?,
        Verb::Delete(args) => delete::run(&context, &args)?,
        Verb::Run(args) => return run::run(&context, &args),
        Verb::Exec(args) => return Ok(exec::run(&context, &args)?),
        Verb::Pause(args) => pause::pause(&context, &args)?,
        Verb::Resume(args) => pause::resume(&context, &args)?,
        Verb::Checkpoint(args) => checkpoint::run(&context, &args)?,
        Verb::Restore(args) => return restore::run(&context, &args),
        Verb::Update(args) => update::run(&context, &args)?,
        Verb::Events(args) => events::run(&context, &args)?,
        Verb::List(args) => list::run(&context, &args)?,
        Verb::Ps(args) => ps::run(&context, &args)?,
        Verb::Spec(args) => spec::run(&context, &args)?,
        Verb::Features => features::run().map_err(CommandError::Output)?,
        Verb::Doctor(args) => return doctor::run(&context, &args),
        Verb::Install(args) => install::run(&context, &args)?,
        Verb::Metrics(args) => metrics::run(&context, &args)?,
        Verb::Completion(args) => completion::run(&args).map_err(CommandError::Output)?,
        Verb::Man(args) => man::run(&args).map_err(CommandError::Output)?,
    }
    Ok(0)
}

/// As with runc: root's is `/run`, a user's the folder of the session.
fn default_root() -> Result<PathBuf, PlaceError> {
    let places = Places::current();
    places.secure_state()?;
    Ok(places.state)
}

/// An id from the command line. runc's words for one that is none.
#[derive(Debug, thiserror::Error)]
pub enum IdError {
    /// Nothing.
    #[error("container id cannot be empty")]
    Empty,
    /// Something else.
    #[error("invalid container ID format")]
    Invalid(#[source] InvalidContainerId),
}

fn parse_id(text: &str) -> Result<ContainerId, IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    text.parse().map_err(IdError::Invalid)
}

/// Writes to standard output. A reader that has gone away is no error: it has what it wanted.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
