//! The KVM probe: can this machine's KVM serve a guest, not only open a device?
//!
//! On cloud machines without nested virtualisation `/dev/kvm` may be emulated: the guest's kernel
//! code runs a thousand times slower than its programs, and instructions that every kernel uses
//! end in an internal error. A throw-away VM of a few pages finds out within a second.
//!
//! ```text
//!  open ─▶ capabilities ─▶ event descriptors ─▶ speed of ring 0 ─▶ instructions ─▶ fit
//!    └▶ absent   └────────────────┴──────────────────┴──────────────────┴──▶ unfit
//! ```
//!
//! A broken KVM may never come back from the guest: everything happens on a thread of its own
//! that the verdict does not wait for longer than [`TIME`].

mod bench;
mod program;

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use cofferdam_protocol::probe::ProbeReport;

use self::bench::{Bench, BenchError};
use crate::machine::kvm::{CapableKvm, KvmError};
use crate::report::chain;

const DEVICE: &str = "/dev/kvm";
/// How long the probe may take. A fit machine needs some milliseconds, an overloaded one seconds.
const TIME: Duration = Duration::from_secs(20);
/// Ring 0 of an emulated KVM was seen at 2000 ns for an instruction; one that works takes less
/// than 1, and in the lab, itself emulated, some tens.
const SLOW_NS_X100: u64 = 200 * 100;
/// A machine that is slow itself is not to blame KVM for: so many times slower than the same loop
/// outside of the guest.
const SLOW_RATIO: u64 = 20;

/// Probes this machine.
#[must_use]
pub fn run() -> ProbeReport {
    let device =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(DEVICE);
    match device {
        Ok(device) => probe_in_time(device.into()),
        Err(error) => absent(&error),
    }
}

fn absent(error: &std::io::Error) -> ProbeReport {
    let reason = match error.kind() {
        ErrorKind::NotFound => {
            format!("{DEVICE} is not there: the processor has no virtualisation, or it is off")
        }
        ErrorKind::PermissionDenied => format!("No permission to use {DEVICE}"),
        _ => format!("{DEVICE} cannot be opened: {error}"),
    };
    ProbeReport::Absent { reason }
}

fn probe_in_time(device: OwnedFd) -> ProbeReport {
    let (sender, verdict) = mpsc::channel();
    // The thread is left behind when it hangs; it ends with the process.
    let probing = thread::Builder::new().spawn(move || sender.send(probe(device)));
    if let Err(error) = probing {
        return ProbeReport::Unfit { reason: format!("No thread to probe on: {error}") };
    }
    match verdict.recv_timeout(TIME) {
        Ok(report) => report,
        Err(RecvTimeoutError::Timeout) => {
            let seconds = TIME.as_secs();
            let reason = format!("A guest of a few instructions did not end in {seconds} s");
            ProbeReport::Unfit { reason }
        }
        Err(RecvTimeoutError::Disconnected) => {
            ProbeReport::Unfit { reason: "The probe ended without a verdict".to_owned() }
        }
    }
}

fn probe(device: OwnedFd) -> ProbeReport {
    let kvm = match CapableKvm::check(device) {
        Ok(kvm) => kvm,
        Err(error @ KvmError::ApiVersion(_)) => {
            return ProbeReport::Absent { reason: chain(&error) };
        }
        Err(error) => return ProbeReport::Unfit { reason: chain(&error) },
    };
    match examine(&kvm) {
        Ok(ring0_ns_x100) => ProbeReport::Fit { ring0_ns_x100 },
        Err(error) => ProbeReport::Unfit { reason: chain(&error) },
    }
}

/// Why a KVM that is there is of no use.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    /// A step towards the throw-away VM failed.
    #[error("A VM cannot be made")]
    Kvm(#[from] KvmError),
    /// The throw-away VM does not do what a VM does.
    #[error("KVM is there, but a guest does not run on it")]
    Bench(#[from] BenchError),
    /// Ring 0 is emulated.
    #[error(
        "KVM emulates the guest's kernel: {} ns for an instruction in ring 0, and {} outside of the guest",
        .guest_ns_x100 / 100, display_ns(*.host_ns_x100)
    )]
    Slow {
        /// In the guest's ring 0.
        guest_ns_x100: u64,
        /// In this process.
        host_ns_x100: u64,
    },
}

fn display_ns(ns_x100: u64) -> String {
    format!("{}.{:02}", ns_x100 / 100, ns_x100 % 100)
}

/// The speed of ring 0, when everything else is right as well.
fn examine(kvm: &CapableKvm) -> Result<u64, Unfit> {
    let mut bench = Bench::set_up(kvm)?;
    bench.check_interrupt()?;
    let guest_ns_x100 = bench.ring0_ns_x100()?;
    let host_ns_x100 = bench::host_ns_x100();
    if is_slow(guest_ns_x100, host_ns_x100) {
        return Err(Unfit::Slow { guest_ns_x100, host_ns_x100 });
    }
    bench.check_instructions()?;
    Ok(guest_ns_x100)
}

fn is_slow(guest_ns_x100: u64, host_ns_x100: u64) -> bool {
    guest_ns_x100 > SLOW_NS_X100 && guest_ns_x100 > SLOW_RATIO * host_ns_x100.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulated_ring_0_is_slow_and_a_slow_machine_is_not() {
        assert!(is_slow(2000 * 100, 50));
        assert!(!is_slow(40, 30));
        assert!(!is_slow(30 * 100, 100));
        assert!(!is_slow(900 * 100, 300 * 100));
    }

    #[test]
    fn a_missing_device_and_a_missing_permission_differ() {
        let report = |kind: ErrorKind| absent(&kind.into());
        let ProbeReport::Absent { reason } = report(ErrorKind::NotFound) else { panic!() };
        assert!(reason.contains("is not there"), "{reason}");
        let ProbeReport::Absent { reason } = report(ErrorKind::PermissionDenied) else { panic!() };
        assert!(reason.contains("permission"), "{reason}");
    }

    #[test]
    fn this_machine_gets_a_verdict_in_time() {
        let started = std::time::Instant::now();
        let report = run();
        assert!(started.elapsed() < TIME + Duration::from_secs(1), "{report:?}");
    }
}
