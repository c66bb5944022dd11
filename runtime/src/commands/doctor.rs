//! `doctor`: what this machine has of what containers need, with the remedy for what is missing.

use std::io;

use crate::cli::{DoctorArgs, OutputFormat};
use crate::commands::{CommandError, Context, EXIT_FAILURE, print};
use crate::config::Config;
use crate::doctor::{Diagnosis, checks};

pub(super) fn run(context: &Context, args: &DoctorArgs) -> Result<u8, CommandError> {
    let config = Config::load(context.global.config.as_deref())?;
    let diagnosis = Diagnosis::new(checks::look(&config, context.store.root()));
    let text = match args.format {
        OutputFormat::Table => diagnosis.to_table(),
        OutputFormat::Json => {
            let text = serde_json::to_string_pretty(&diagnosis)
                .map_err(|error| CommandError::Output(io::Error::from(error)))?;
            format!("{text}\n")
        }
    };
    print(&text).map_err(CommandError::Output)?;
    Ok(if diagnosis.is_usable() { 0 } else { EXIT_FAILURE })
}
