//! What the monitor says of its own accord: one boot report, one exit record, log lines.

use std::error::Error;
use std::fs::File;
use std::time::{Duration, Instant};

use cofferdam_protocol::boot::{BootReport, BootStage, ExitRecord};
use cofferdam_protocol::bounds::{MAX_BOOT_REPORT_BYTES, MAX_CONTROL_BYTES};
use cofferdam_protocol::frame;

/// The clock of a boot: which stage it is in, and what each took.
#[derive(Debug)]
pub struct BootClock {
    stage: BootStage,
    since: Instant,
    stages_us: Vec<(BootStage, u64)>,
}

impl BootClock {
    /// Starts in the first stage.
    #[must_use]
    pub fn start(now: Instant) -> Self {
        Self { stage: BootStage::Jail, since: now, stages_us: Vec::with_capacity(4) }
    }

    /// The stage that the boot is in.
    #[must_use]
    pub fn stage(&self) -> BootStage {
        self.stage
    }

    /// The boot goes on to a later stage; an earlier one changes nothing.
    pub fn reach(&mut self, stage: BootStage, now: Instant) {
        if stage > self.stage {
            let took = now.saturating_duration_since(self.since);
            self.stages_us.push((self.stage, micros(took)));
            (self.stage, self.since) = (stage, now);
        }
    }

    /// From the guest's first instruction on: the stages that are its own, as far as they are over.
    #[must_use]
    pub fn guest_us(&self) -> u64 {
        let own = self.stages_us.iter().filter(|(stage, _)| *stage >= BootStage::Kernel);
        own.map(|(_, us)| us).sum()
    }

    /// What the stages took that are over.
    #[must_use]
    pub fn stages_us(&self) -> Vec<(BootStage, u64)> {
        self.stages_us.clone()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Writes the boot report.
///
/// # Errors
/// When the runtime no longer reads.
pub fn send_boot_report(to: &File, report: &BootReport) -> Result<(), frame::FrameError> {
    frame::write_frame(to, report, MAX_BOOT_REPORT_BYTES)
}

/// Writes the exit record.
///
/// # Errors
/// When the file cannot be written.
pub fn send_exit_record(to: &File, record: &ExitRecord) -> Result<(), frame::FrameError> {
    frame::write_frame(to, record, MAX_CONTROL_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_has_its_own_time() {
        let start = Instant::now();
        let at = |micros| start + Duration::from_micros(micros);
        let mut clock = BootClock::start(start);
        clock.reach(BootStage::Load, at(5));
        clock.reach(BootStage::Jail, at(6));
        clock.reach(BootStage::Kernel, at(7));
        assert_eq!(clock.stages_us(), [(BootStage::Jail, 5), (BootStage::Load, 2)]);
        assert_eq!(clock.stage(), BootStage::Kernel);
        clock.reach(BootStage::Devices, at(40));
        clock.reach(BootStage::Ready, at(44));
        assert_eq!(clock.guest_us(), 37);
    }

    #[test]
    fn an_error_and_its_causes_make_one_line() {
        let error = crate::machine::memory::MemoryError::ReadFile(std::io::Error::other("no disk"));
        assert_eq!(chain(&error), "A file cannot be read into guest memory: no disk");
    }
}
