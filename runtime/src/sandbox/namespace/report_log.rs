//! Carries `libcontainer`'s log events from wherever it runs (two forks away, inside the container)
//! to the caller: its errors leave out their causes, and the causes are in the log.

use std::fmt::Write as _;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use super::report::{Report, Reporter};

/// Longest event that is passed on: one write to a pipe of this size is not torn apart by another
/// process's.
const MAX_MESSAGE: usize = 2048;

/// Makes every error event of this process, and of those that it forks, a report.
pub(super) fn install(reporter: Reporter) {
    // Set once, in a process that lives for one job: there is nobody who could have set another.
    let _ = tracing::subscriber::set_global_default(ReportLog(reporter));
}

struct ReportLog(Reporter);

impl Subscriber for ReportLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::ERROR)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let mut message = text.0;
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(end);
        }
        self.0.send(&Report::Log { message });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The message, then its fields.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let separator = if self.0.is_empty() { "" } else { ", " };
        let _ = if field.name() == "message" {
            write!(self.0, "{separator}{value:?}")
        } else {
            write!(self.0, "{separator}{}: {value:?}", field.name())
        };
    }
}
