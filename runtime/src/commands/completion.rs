//! `completion`: what a shell needs to complete our command line.

use std::io;

use clap::CommandFactory;

use crate::cli::{Cli, CompletionArgs};
use crate::commands::print;

pub(super) fn run(args: &CompletionArgs) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cofferdam", &mut script);
    print(&String::from_utf8_lossy(&script))
}
