//! A time namespace: clocks of the container's own.

use std::fmt::Write as _;
use std::fs;

use cofferdam_protocol::plan::TimeOffsetPlan;
use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::failure::{StartError, Step};

/// Not in nix: `linux/sched.h`.
pub(crate) const CLONE_NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// Makes the namespace, sets its clocks, and enters it: by itself the kernel puts only children
/// into it. Through the agent's `/proc`, so before the process changes its root.
pub(crate) fn unshare(offsets: Option<&[TimeOffsetPlan]>) -> Result<(), StartError> {
    let Some(offsets) = offsets else { return Ok(()) };
    let step = || "making the time namespace".to_owned();
    nix::sched::unshare(CLONE_NEWTIME).step(step)?;
    if !offsets.is_empty() {
        let lines = lines(offsets);
        // The file is its user's own only while the process may be looked at; this is the
        // container's first, so that there is nobody to look.
        set_dumpable_behavior(DumpableBehavior::Dumpable).step(step)?;
        let written = fs::write("/proc/self/timens_offsets", &lines);
        set_dumpable_behavior(DumpableBehavior::NotDumpable).step(step)?;
        written
            .step(|| format!("setting the clocks of the time namespace: {}", lines.trim_end()))?;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let made = rustix::fs::openat(CWD, "/proc/self/ns/time_for_children", flags, Mode::empty());
    nix::sched::setns(made.step(step)?, CLONE_NEWTIME).step(step)
}

fn lines(offsets: &[TimeOffsetPlan]) -> String {
    offsets.iter().fold(String::new(), |mut lines, offset| {
        let TimeOffsetPlan { clock, seconds, nanoseconds } = offset;
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{clock} {seconds} {nanoseconds}");
        lines
    })
}
