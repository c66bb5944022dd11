//! The machine is saved, and goes on: here, or as another in another monitor.
//!
//! ```text
//!  running ──SUSPEND──▶ containers frozen, input taken ──Suspended──▶ asleep
//!     ▲                      │ not in time                              │ RESUME: as if nothing had been
//!     └──────────────────────┴──────────────────────────────────────────┤
//!     ▲                                                                 │ the lifeline broke
//!     └──── thawed by the host ◀── Reawaken: time, randomness ◀── ready ◀┘ (restored)
//! ```
//!
//! Asleep means that this, the agent's only thread, waits for the lifeline and does nothing else:
//! nothing is sent after the answer that everything is.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_protocol::id::ContainerId;

use crate::agent::{Agent, RequestError};
use crate::cgroup::Cgroup;
use crate::sys;

/// The kernel has what the host sent; the pumps take it, a buffer at a time.
const TAKE_INPUT: Duration = Duration::from_millis(5);
/// `cgroup.freeze` is a digit.
const MAX_FLAG_BYTES: u64 = 16;

/// Containers that stand still for the time being.
#[derive(Debug)]
pub struct Suspended {
    frozen: Vec<Arc<Cgroup>>,
}

impl Agent {
    /// Freezes the containers and takes what was sent to them. `None`: they do not stand still in
    /// time, and go on.
    pub async fn suspend(&self) -> Option<Suspended> {
        let mut suspended = Suspended { frozen: Vec::new() };
        for (id, cgroup) in self.groups() {
            if is_frozen(&cgroup) {
                continue;
            }
            match self.freeze(&id, true).await {
                Ok(true) => suspended.frozen.push(cgroup),
                Ok(false) | Err(_) => {
                    self.resume(suspended);
                    return None;
                }
            }
        }
        self.each_process(|process, _| process.streams.suspend(true));
        tokio::time::sleep(TAKE_INPUT).await;
        Some(suspended)
    }

    /// Goes on as before.
    pub fn resume(&self, suspended: Suspended) {
        self.each_process(|process, _| process.streams.suspend(false));
        for cgroup in suspended.frozen {
            // A group that is gone has nothing to thaw.
            let _ = cgroup.write("cgroup.freeze", "0");
        }
    }

    /// The machine was restored: the streams of containers' first processes are connected again;
    /// those of others have lost whom they were for. The containers stand still until the host
    /// thaws them.
    pub fn restored(&self) {
        self.each_process(|process, is_init| process.streams.restored(is_init));
    }

    /// The time, new randomness, and what the container is called now.
    ///
    /// # Errors
    /// When there is not one container, or the kernel refuses.
    pub fn reawaken(
        &self,
        name: ContainerId,
        now: Duration,
        entropy: &[u8],
    ) -> Result<(), RequestError> {
        sys::set_wall_clock(now).map_err(RequestError::Kernel)?;
        sys::add_entropy(entropy).map_err(RequestError::Kernel)?;
        if self.rename(name.clone()) { Ok(()) } else { Err(RequestError::NoContainer(name)) }
    }
}

fn is_frozen(cgroup: &Cgroup) -> bool {
    let text: io::Result<String> = cgroup.read("cgroup.freeze", MAX_FLAG_BYTES);
    text.is_ok_and(|text| text.trim() == "1")
}
