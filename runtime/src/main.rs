//! `cofferdam`: the command line of the runtime. Parses, dispatches, and says once what failed.

use std::process::ExitCode;

use clap::Parser;
use cofferdam::cli::Cli;
use cofferdam::commands;
use cofferdam::host::log;
use cofferdam::sandbox::namespace;

/// What a shell reports of a program that aborted.
const ABORTED: i32 = 134;

fn main() -> ExitCode {
    end_when_panicking();
    if let Some(code) = namespace::run_as_helper() {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let global = &cli.global;
    if let Err(error) = log::start(global.log.as_deref(), global.log_format, global.debug) {
        log::fatal(&log::with_causes(&error));
        return ExitCode::FAILURE;
    }
    let compat = global.compat;
    match commands::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log::fatal(&log::with_causes(&error));
            ExitCode::from(error.exit_code(compat))
        }
    }
}

/// The first process of a pid namespace cannot be relied on to die of its own SIGABRT: whoever
/// waits for a container that is being made would wait for ever.
fn end_when_panicking() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(ABORTED);
    }));
}

/// Help and the version are what was asked for; anything else is a mistake, and 1 as with runc.
fn usage(error: &clap::Error) -> ExitCode {
    // Standard output or error may be gone: there is nobody to tell.
    let _ = error.print();
    if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
