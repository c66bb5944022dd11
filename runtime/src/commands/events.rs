//! `events`: what a container uses, and when its memory runs out, one line of JSON each.
//!
//! ```text
//!   --stats:  one line
//!   without:  a line every interval, one for each time that memory ran out, until the container ends
//! ```

mod duration;

use std::io;
use std::time::{Duration, Instant};

use cofferdam_protocol::id::ContainerId;
use serde::Serialize;

use crate::cgroup::statistics::Statistics;
use crate::cli::EventsArgs;
use crate::commands::{Context, IdError, parse_id, print};
use crate::host::log::with_causes;
use crate::sandbox::request::WatchOutcome;
use crate::sandbox::{self, StatisticsError, Watch};
use crate::state::status::Status;
use crate::state::store::StoreError;

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The state folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `--interval` is no time.
    #[error("invalid value {0:?} for --interval: a time is written as 5s, 500ms or 1m30s")]
    Interval(String),
    /// `--interval` is none. The words are runc's.
    #[error("duration interval must be greater than 0")]
    NoInterval,
    /// Not now. The words are runc's.
    #[error("container with id {0} is not running")]
    NotRunning(ContainerId),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] StatisticsError),
    /// The line is no JSON.
    #[error("Cannot write an event as JSON")]
    Encode(#[from] serde_json::Error),
    /// Standard output refuses.
    #[error("Cannot write the output")]
    Output(#[from] io::Error),
}

/// One line.
#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Statistics>,
}

pub(super) fn run(context: &Context, args: &EventsArgs) -> Result<(), EventsError> {
    let id = parse_id(&args.target.id)?;
    let interval = duration::parse(&args.interval);
    let interval = interval.ok_or_else(|| EventsError::Interval(args.interval.clone()))?;
    if interval.is_zero() {
        return Err(EventsError::NoInterval);
    }
    let entry = context.store.open(&id)?;
    if matches!(entry.record.status(), Status::Stopped | Status::Creating) {
        return Err(EventsError::NotRunning(id));
    }
    let mut watch = sandbox::watch(entry.record.isolation, &entry.sandbox())?;
    if args.stats {
        let data = Some(watch.statistics()?);
        return show(&Event { kind: "stats", id: id.as_str(), data });
    }
    follow(&mut watch, &id, interval)
}

fn follow(watch: &mut Watch, id: &ContainerId, interval: Duration) -> Result<(), EventsError> {
    let id = id.as_str();
    let mut next = Instant::now() + interval;
    loop {
        match watch.wait(next)? {
            WatchOutcome::Ended => return Ok(()),
            WatchOutcome::OutOfMemory(times) => {
                for _ in 0..times {
                    show(&Event { kind: "oom", id, data: None })?;
                }
            }
            WatchOutcome::Nothing if Instant::now() >= next => {
                next = Instant::now() + interval;
                match watch.statistics() {
                    Ok(data) => show(&Event { kind: "stats", id, data: Some(data) })?,
                    // It may have ended meanwhile, which the next wait finds.
                    Err(error) => tracing::error!("{}", with_causes(&error)),
                }
            }
            WatchOutcome::Nothing => {}
        }
    }
}

fn show(event: &Event<'_>) -> Result<(), EventsError> {
    Ok(print(&format!("{}\n", serde_json::to_string(event)?))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_without_data_has_its_kind_and_its_container() {
        let line = serde_json::to_string(&Event { kind: "oom", id: "a", data: None }).unwrap();
        assert_eq!(line, r#"{"type":"oom","id":"a"}"#);
    }
}
