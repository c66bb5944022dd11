//! What the KVM probe found: `cofferdam-vmm probe` prints one [`ProbeReport`] as JSON on stdout.

use serde::{Deserialize, Serialize};

/// Whether this machine's KVM can serve a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum ProbeReport {
    /// Every check passed.
    Fit {
        /// Guest ring-0 speed: nanoseconds for each instruction of a counting loop, times 100.
        ring0_ns_x100: u64,
    },
    /// KVM is there and would hang or break a guest.
    Unfit {
        /// Which check failed and what was seen, for people.
        reason: String,
    },
    /// There is no KVM to probe.
    Absent {
        /// Why: no device, no permission, a foreign API version.
        reason: String,
    },
}
