//! `create`: a container that waits for `start`.

use crate::cli::CreateArgs;
use crate::commands::Context;
use crate::commands::creation::{self, CreationError, TerminalOwner};
use crate::host::signals::Interrupts;

pub(super) fn run(context: &Context, args: &CreateArgs) -> Result<(), CreationError> {
    let interrupts = Interrupts::catch()
        .map_err(|source| CreationError::Host { step: "catch signals", source })?;
    creation::create(context, args, TerminalOwner::ConsoleSocket, &interrupts)?;
    Ok(())
}
