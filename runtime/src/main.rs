//! `cofferdam`: the command line of the runtime.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = cofferdam::sandbox::namespace::run_as_helper() {
        return code;
    }
    ExitCode::SUCCESS
}
