//! `update`: other limits for a container that exists.
//!
//! ```text
//!   flags, or a file ─▶ what is wanted ─┐
//!   the saved configuration ────────────┴─▶ change ─▶ sandbox writes it ─▶ saved configuration
//! ```

mod flags;

use std::path::Path;

use oci_spec::runtime::{Linux, LinuxResources};

use crate::cli::UpdateArgs;
use crate::commands::{Context, IdError, parse_id};
use crate::sandbox;
use crate::sandbox::request::UpdateRequest;
use crate::spec::resources::change;
use crate::spec::{self, SpecError};
use crate::state::status::{Refusal, Transition};
use crate::state::store::StoreError;

/// Why the limits are as they were.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A flag.
    #[error(transparent)]
    Flag(#[from] flags::InvalidFlag),
    /// The state folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The file of `--resources`, or the saved configuration.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Limits that no document can hold.
    #[error("The limits cannot be combined with those that there are")]
    Combine(#[from] serde_json::Error),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] sandbox::UpdateError),
}

pub(super) fn run(context: &Context, args: &UpdateArgs) -> Result<(), UpdateError> {
    let wanted = wanted(args)?;
    let (entry, lock) = context.store.open_locked(&parse_id(&args.target.id)?)?;
    entry.record.permit(Transition::Update)?;
    let sandbox = entry.sandbox();
    let mut spec = sandbox.spec()?;
    let mut linux: Linux = spec.linux().clone().unwrap_or_default();
    let present = linux.resources().clone().unwrap_or_default();
    let request = UpdateRequest {
        change: change(&present, &wanted)?,
        l3_cache_schema: args.l3_cache_schema.clone(),
        memory_bandwidth_schema: args.mem_bw_schema.clone(),
    };
    sandbox::update(entry.record.isolation, &sandbox, &request)?;
    linux.set_resources(Some(request.change.merged));
    spec.set_linux(Some(linux));
    spec::replace_copy(&entry.folder, &spec)?;
    drop(lock);
    Ok(())
}

fn wanted(args: &UpdateArgs) -> Result<LinuxResources, UpdateError> {
    Ok(match args.resources.as_deref() {
        Some(path) if path == Path::new("-") => spec::read_standard_input()?,
        Some(path) => spec::read_document(path)?,
        None => flags::resources(args)?,
    })
}
