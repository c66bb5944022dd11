//! What the threads tell the main thread, which alone reports it to the runtime.

use std::time::Instant;

use cofferdam_protocol::boot::BootStage;

/// One thing that happened.
#[derive(Debug)]
pub enum Happening {
    /// The boot came to a later stage.
    Reached(BootStage, Instant),
    /// The sandbox's first process ended; its output is still being written.
    Ending,
    /// The sandbox's first process ended and its output is written.
    Ended {
        /// Its exit code.
        code: u8,
        /// The guest's OOM killer had struck.
        oom: bool,
    },
    /// The guest or a device cannot go on, for this reason.
    Lost(String),
}
