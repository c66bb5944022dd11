//! `doctor`: what this machine has of what containers need, with the remedy for what is missing.

use crate::cli::DoctorArgs;
use crate::commands::{CommandError, Context};
use crate::config::Config;

pub(super) fn run(context: &Context, args: &DoctorArgs) -> Result<u8, CommandError> {
    let config = Config::load(context.global.config.as_deref())?;
    let _ = (args, config);
    Ok(0)
}
