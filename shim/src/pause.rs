//! The first process of a pod's sandbox: it holds the pod's namespaces, and whoever loses its parent
//! among the pod's processes has it for one.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Waits until somebody asks it to end.
///
/// # Errors
/// Signals cannot be waited for.
pub(crate) fn wait() -> Result<(), Errno> {
    let mut awaited = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        awaited.add(signal);
    }
    awaited.thread_block()?;
    while awaited.wait()? == Signal::SIGCHLD {
        collect();
    }
    Ok(())
}

/// One signal may stand for several children.
fn collect() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
