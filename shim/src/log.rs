//! The shim's own log: containerd reads it from a FIFO in the first bundle.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;

use nix::libc::O_NONBLOCK;
use tracing_subscriber::filter::LevelFilter;

/// What containerd reads, in the working folder.
const FIFO: &str = "log";

/// Starts to log there, if containerd reads.
pub(crate) fn start(debug: bool) {
    // Without a reader, opening fails: then there is nobody to tell. A full FIFO loses lines.
    let Ok(fifo) = File::options().write(true).custom_flags(O_NONBLOCK).open(FIFO) else { return };
    let level = if debug { LevelFilter::DEBUG } else { LevelFilter::WARN };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(Mutex::new(fifo));
    // Called once for each process.
    let _ = tracing::subscriber::set_global_default(subscriber.finish());
}
