//! `restore`: a container goes on from where `checkpoint` saved it. Like `run`, but that its program
//! does not begin: it is set going as one that was paused.

use crate::cli::{CreateArgs, RestoreArgs, RunArgs};
use crate::commands::run as runner;
use crate::commands::{CommandError, Context};

pub(super) fn run(context: &Context, args: &RestoreArgs) -> Result<u8, CommandError> {
    let create = CreateArgs {
        bundle: args.bundle.clone(),
        console_socket: args.console_socket.clone(),
        pidfd_socket: None,
        pid_file: args.pid_file.clone(),
        no_pivot: args.no_pivot,
        no_new_keyring: false,
        preserve_fds: 0,
        target: args.target.clone(),
        restore: Some(Box::new(args.clone())),
    };
    let (detach, no_subreaper) = (args.detach, args.no_subreaper);
    runner::run(context, &RunArgs { create, detach, keep: false, no_subreaper })
}
