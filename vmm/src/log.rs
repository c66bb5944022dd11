//! Log lines: one JSON object each, as the runtime writes its own: `level`, `msg`, `time` and the
//! event's fields.
//!
//! What this is not: a way for the guest to fill a disk. Only warnings and errors are written, and
//! of those at most [`MAX_LINES`]: a guest may provoke each as often as it likes.

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Enough for every cause of trouble that there is, many times over.
const MAX_LINES: u64 = 1000;

/// Sends what the monitor has to say to a descriptor, from now on.
pub fn start(out: File) {
    // It fails only where a log was started before: once is what was asked for.
    let _ = tracing::subscriber::set_global_default(JsonLines { out, lines: AtomicU64::new(0) });
}

struct JsonLines {
    out: File,
    lines: AtomicU64,
}

impl Subscriber for JsonLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= LevelFilter::WARN
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        if self.lines.fetch_add(1, Ordering::Relaxed) < MAX_LINES {
            let line = line(event, SystemTime::now());
            // Nobody is there to be told that nobody is told.
            let _ = (&self.out).write_all(line.as_bytes());
        }
    }

    // There are no spans here.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn line(event: &Event<'_>, now: SystemTime) -> String {
    let mut fields = Fields(Map::new());
    event.record(&mut fields);
    let level = event.metadata().level().as_str().to_ascii_lowercase();
    fields.0.insert("level".to_owned(), Value::String(level));
    fields.0.insert("time".to_owned(), Value::String(timestamp(now)));
    format!("{}\n", Value::Object(fields.0))
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        self.0.insert(name.to_owned(), Value::String(format!("{value:?}")));
    }
}

/// RFC 3339, in UTC.
fn timestamp(now: SystemTime) -> String {
    const DAY: u64 = 86_400;
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(seconds / DAY);
    let (hour, minute, second) = (seconds % DAY / 3600, seconds % 3600 / 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The date of a day counted from 1970-01-01. A year here begins in March, so that the day which
/// comes and goes is its last.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    // From 0000-03-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> String {
        timestamp(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn a_line_is_json_and_there_is_an_end_to_them() {
        let mut file = tempfile::tempfile().unwrap();
        let log = JsonLines { out: file.try_clone().unwrap(), lines: AtomicU64::new(0) };
        tracing::subscriber::with_default(log, || {
            for _ in 0..=MAX_LINES {
                tracing::warn!(queue = 3, "A \"bad\" queue");
            }
            tracing::info!("Not written");
        });
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count() as u64, MAX_LINES);
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["msg"], "A \"bad\" queue");
        assert_eq!((&line["level"], &line["queue"]), (&"warn".into(), &"3".into()));
    }
}
