//! `cofferdam-vmm`: see the library.

use std::process::ExitCode;

use cofferdam_protocol::probe::ProbeReport;
use cofferdam_vmm::arguments::{self, Request};
use cofferdam_vmm::{boot, probe};

fn main() -> ExitCode {
    match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Request::Run { config }) => boot::run(config),
        Ok(Request::Probe) => print_report(&probe::run()),
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

fn print_report(report: &ProbeReport) -> ExitCode {
    match serde_json::to_string(report) {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cofferdam-vmm: The report cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}
