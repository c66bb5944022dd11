//! What the main thread does while the guest runs: it waits, reports the boot, and records the
//! end.
//!
//! ```text
//!  booting ──Ready──▶ up ──Ending──▶ ending ──Ended──▶ over: the container's code
//!     │               │ └──────────────Ended──────────▶ over
//!     │               └──Lost──▶ over: 137, with the reason
//!     └──Lost, or the time is over──▶ over: 1, the reason and the console in the boot report
//! ```

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use cofferdam_protocol::boot::{BootReport, BootStage, ExitCause, ExitRecord};

use crate::happening::Happening;
use crate::locking::lock;
use crate::report::{BootClock, chain, send_boot_report, send_exit_record};
use crate::vcpu::Bus;

/// The code of a monitor whose guest did not come up.
pub const BOOT_FAILED: u8 = 1;
/// The code of a container that was lost with its guest, as if it had been killed.
const GUEST_LOST: u8 = 137;

/// Where the boot report and the exit record go.
#[derive(Debug)]
pub struct Outlets {
    /// The boot report; closed once it is written, which tells the runtime that nothing follows.
    pub report: File,
    /// The exit record.
    pub exit_record: File,
}

impl Outlets {
    /// Says why there is no sandbox. The code to end with.
    #[must_use]
    pub fn boot_failed(self, stage: BootStage, reason: String, console: String) -> u8 {
        let report = BootReport::Failed { stage, reason, console };
        if let Err(error) = send_boot_report(&self.report, &report) {
            tracing::error!("The boot report cannot be written: {}", chain(&error));
        }
        BOOT_FAILED
    }
}

/// A running guest, from outside.
pub struct Watch {
    /// What the other threads tell.
    pub happenings: Receiver<Happening>,
    /// The boot's clock.
    pub clock: BootClock,
    /// How long the boot may take from now.
    pub boot_timeout: Duration,
    /// Where to report.
    pub outlets: Outlets,
    /// For the console's tail.
    pub bus: Arc<Bus>,
}

impl Watch {
    /// Waits for the sandbox's end; the code to end with.
    #[must_use]
    pub fn run(mut self) -> u8 {
        match self.await_ready() {
            Ok(()) => self.await_end(),
            Err(reason) => {
                let console = lock(&self.bus.console).tail();
                self.outlets.boot_failed(self.clock.stage(), reason, console)
            }
        }
    }

    /// The reason when the guest does not come up.
    fn await_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + self.boot_timeout;
        while self.clock.stage() < BootStage::Ready {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.happenings.recv_timeout(left) {
                Ok(Happening::Reached(stage, at)) => self.clock.reach(stage, at),
                Ok(Happening::Lost(reason)) => return Err(reason),
                // Nothing is attached before the guest is up.
                Ok(Happening::Ending | Happening::Ended { .. }) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let limit = self.boot_timeout.as_millis();
                    return Err(format!("The guest is not up after {limit} ms"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err("The monitor's threads are gone".to_owned());
                }
            }
        }
        self.bus.figures.boot_us.store(self.clock.guest_us(), Ordering::Relaxed);
        let report = BootReport::Ready { stages_us: self.clock.stages_us() };
        // A runtime that no longer reads has given this sandbox up.
        send_boot_report(&self.outlets.report, &report)
            .map_err(|error| format!("The boot report cannot be written: {}", chain(&error)))
    }

    fn await_end(self) -> u8 {
        let record = self.end();
        if let Err(error) = send_exit_record(&self.outlets.exit_record, &record) {
            tracing::error!("The exit record cannot be written: {}", chain(&error));
        }
        record.code
    }

    fn end(&self) -> ExitRecord {
        let mut ending = false;
        loop {
            match self.happenings.recv() {
                Ok(Happening::Ended { code, oom }) => {
                    let cause = if oom { ExitCause::OutOfMemory } else { ExitCause::Exited };
                    return ExitRecord { code, cause };
                }
                Ok(Happening::Ending) => ending = true,
                // The exit code is known: a guest that is gone has nothing to add.
                Ok(Happening::Lost(_)) if ending => {}
                Ok(Happening::Lost(reason)) => return lost(reason),
                Ok(Happening::Reached(..)) => {}
                Err(_) => return lost("The monitor's threads are gone".to_owned()),
            }
        }
    }
}

fn lost(reason: String) -> ExitRecord {
    ExitRecord { code: GUEST_LOST, cause: ExitCause::GuestLost(reason) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};
    use std::sync::Mutex;
    use std::sync::mpsc;

    use cofferdam_protocol::frame::read_frame;
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::console::Console;
    use crate::slots::Slots;

    const BOUND: usize = 1 << 16;

    /// Runs a watch over what happens; the code, the boot report, the exit record.
    fn watched(happenings: Vec<Happening>) -> (u8, BootReport, Option<ExitRecord>) {
        let (report, exit_record) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let (sender, receiver) = mpsc::channel();
        happenings.into_iter().for_each(|happening| sender.send(happening).unwrap());
        let console = Mutex::new(Console::new(EventFd::new(0).unwrap(), None));
        let watch = Watch {
            happenings: receiver,
            clock: BootClock::start(Instant::now()),
            boot_timeout: Duration::from_millis(20),
            outlets: Outlets {
                report: report.try_clone().unwrap(),
                exit_record: exit_record.try_clone().unwrap(),
            },
            bus: Arc::new(Bus {
                console,
                devices: vec![],
                device_figures: vec![],
                slots: Slots::new([]),
                figures: Arc::default(),
            }),
        };
        let code = watch.run();
        drop(sender);
        let content = |mut file: File| {
            let mut bytes = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            bytes
        };
        let report = read_frame(content(report).as_slice(), BOUND).unwrap();
        (code, report, read_frame(content(exit_record).as_slice(), BOUND).ok())
    }

    fn ready() -> Happening {
        Happening::Reached(BootStage::Ready, Instant::now())
    }

    #[test]
    fn the_containers_code_is_the_monitors() {
        let ended = Happening::Ended { code: 3, oom: false };
        let (code, report, record) = watched(vec![ready(), Happening::Ending, ended]);
        assert_eq!(code, 3);
        assert!(matches!(report, BootReport::Ready { .. }));
        assert_eq!(record, Some(ExitRecord { code: 3, cause: ExitCause::Exited }));
    }

    #[test]
    fn a_guest_that_goes_away_after_its_process_ended_changes_nothing() {
        let lost = Happening::Lost("gone".to_owned());
        let ended = Happening::Ended { code: 137, oom: true };
        let (code, _, record) = watched(vec![ready(), Happening::Ending, lost, ended]);
        assert_eq!(code, 137);
        assert_eq!(record, Some(ExitRecord { code: 137, cause: ExitCause::OutOfMemory }));
    }

    #[test]
    fn a_lost_guest_is_recorded_with_its_reason() {
        let (code, _, record) = watched(vec![ready(), Happening::Lost("gone".to_owned())]);
        assert_eq!(code, 137);
        let cause = ExitCause::GuestLost("gone".to_owned());
        assert_eq!(record, Some(ExitRecord { code: 137, cause }));
    }

    #[test]
    fn a_boot_that_fails_names_its_stage_and_leaves_no_exit_record() {
        let reached = Happening::Reached(BootStage::Devices, Instant::now());
        let (code, report, record) = watched(vec![reached, Happening::Lost("panic".to_owned())]);
        assert_eq!((code, record), (BOOT_FAILED, None));
        let BootReport::Failed { stage, reason, .. } = report else { panic!("{report:?}") };
        assert_eq!((stage, reason.as_str()), (BootStage::Devices, "panic"));
    }

    #[test]
    fn a_boot_has_a_time_limit() {
        let (code, report, _) = watched(vec![]);
        assert_eq!(code, BOOT_FAILED);
        let BootReport::Failed { reason, .. } = report else { panic!("{report:?}") };
        assert_eq!(reason, "The guest is not up after 20 ms");
    }
}
