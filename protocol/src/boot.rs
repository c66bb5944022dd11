//! What the monitor tells the runtime of its own accord: how the boot went, and how the sandbox
//! ended.

use serde::{Deserialize, Serialize};

/// How far a guest came. In order: a later stage implies those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootStage {
    /// The monitor reads its configuration and shuts itself into its jail.
    Jail,
    /// KVM makes the machine and the kernel is loaded.
    Load,
    /// The vCPUs run; the kernel has not touched a device.
    Kernel,
    /// The kernel drives the vsock device.
    Devices,
    /// The agent said that it is ready.
    Ready,
}

/// One frame on `VmConfig::report`, exactly once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootReport {
    /// The agent is ready.
    Ready {
        /// What each stage took, in microseconds of the host's monotonic clock, in order.
        stages_us: Vec<(BootStage, u64)>,
    },
    /// The guest is lost; the monitor ends itself.
    Failed {
        /// The stage in which it was lost.
        stage: BootStage,
        /// What went wrong, with its causes, in one line.
        reason: String,
        /// The last lines of the guest's console: hostile text, at most
        /// [`MAX_CONSOLE_TAIL_BYTES`](crate::bounds::MAX_CONSOLE_TAIL_BYTES), control characters
        /// replaced.
        console: String,
    },
}

/// One frame on `VmConfig::exit_record`, when the sandbox ends in an orderly way. A monitor that
/// was killed leaves it empty: the reader takes that as code 137.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The exit code of the sandbox's first container, 0 to 255.
    pub code: u8,
    /// Why the sandbox ended.
    pub cause: ExitCause,
}

/// Why a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// The container's init process ended.
    Exited,
    /// It ended after the guest's OOM killer had struck.
    OutOfMemory,
    /// The guest shut down, reset or broke its machine without reporting an exit; the text is the
    /// monitor's.
    GuestLost(String),
}
