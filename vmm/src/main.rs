//! `cofferdam-vmm`: see the library.

use std::process::ExitCode;

use cofferdam_vmm::arguments::{self, Request};
use cofferdam_vmm::boot;

fn main() -> ExitCode {
    match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Request::Run { config }) => boot::run(config),
        Ok(Request::Probe) => ExitCode::FAILURE,
        Ok(Request::Version) => {
            println!("cofferdam-vmm {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Err(usage) => {
            eprintln!("{usage}");
            ExitCode::from(2)
        }
    }
}
