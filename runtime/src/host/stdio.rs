//! What a container's process is connected to on the host.

use std::os::fd::OwnedFd;

/// The host's ends of a process's standard streams.
#[derive(Debug)]
pub enum ProcessStdio {
    /// Descriptors that the caller of the runtime gave: each becomes the process's own (in
    /// namespaces) or is carried to it (into a microVM).
    Inherit {
        /// Standard input.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: Option<OwnedFd>,
        /// Standard error.
        stderr: Option<OwnedFd>,
    },
    /// A terminal of its own, made by the sandbox; its master side goes to the caller of `create`
    /// or `exec` ([`crate::sandbox::request::Created::terminal`]), who sends it to the console
    /// socket or relays it.
    Terminal {
        /// Lines and characters at first; the spec's `consoleSize` or the user's terminal.
        size: Option<(u16, u16)>,
    },
}
