//! `state`: what is known of a container, as JSON.

use std::io;

use crate::cli::StateArgs;
use crate::commands::{Context, IdError, parse_id, print};
use crate::state::store::StoreError;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum LookUpError {
    /// The id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The state folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder that `--root` names.
    #[error("Cannot find the folder of --root")]
    Root(#[source] io::Error),
    /// Standard output refuses.
    #[error("Cannot write the output")]
    Output(#[from] io::Error),
    /// The state is no JSON.
    #[error("Cannot write the state as JSON")]
    Encode(#[from] serde_json::Error),
}

pub(super) fn run(context: &Context, args: &StateArgs) -> Result<(), LookUpError> {
    let entry = context.store.open(&parse_id(&args.target.id)?)?;
    let text = serde_json::to_string_pretty(&entry.record.view())?;
    Ok(print(&format!("{text}\n"))?)
}
