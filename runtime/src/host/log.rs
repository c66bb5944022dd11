//! Where messages go: `--log FILE` in runc's format (`{"level","msg","time"}` lines or text), and
//! standard error for people.
//!
//! What this is not: a journal of what containers do. Arguments and environment of containers are
//! never in a message.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// How a log file's lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `time="…" level=… msg="…"`.
    #[default]
    Text,
    /// One JSON object for each line.
    Json,
}

/// The log file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("Cannot open the log {path}")]
pub struct LogError {
    path: PathBuf,
    source: io::Error,
}

/// Starts logging: to `file` if there is one, and warnings of our own to standard error.
///
/// # Errors
/// When the file cannot be opened.
pub fn start(file: Option<&Path>, format: LogFormat, debug: bool) -> Result<(), LogError> {
    let file = file.map(open).transpose()?;
    let level = if debug { Level::DEBUG } else { Level::WARN };
    // Set once for each process; a second call (in tests) keeps the first.
    let _ = tracing::subscriber::set_global_default(Log { file, format, level });
    Ok(())
}

/// Does something whose warnings go to another file, as lines of JSON, and nowhere else.
pub fn to_file<T>(file: File, act: impl FnOnce() -> T) -> T {
    let log = Log { file: Some(file), format: LogFormat::Json, level: Level::WARN };
    tracing::subscriber::with_default(log, act)
}

fn open(path: &Path) -> Result<File, LogError> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(path)
        .map_err(|source| LogError { path: path.to_path_buf(), source })
}

/// An error and everything behind it, in one line.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // A transparent variant says what its cause says.
        let next = error.to_string();
        if !text.ends_with(&next) {
            let _ = write!(text, ": {next}");
        }
        cause = error.source();
    }
    text
}

/// The error that ends this run: on standard error once, and in the log file.
pub fn fatal(message: &str) {
    tracing::error!(target: FATAL, "{message}");
    let _ = writeln!(io::stderr(), "cofferdam: error: {message}");
}

/// Goes to the file only: [`fatal`] writes to standard error by itself.
const FATAL: &str = "cofferdam::fatal";

/// Messages of this crate; those of libraries go to the file, and only when something is wrong.
const OWN: &str = "cofferdam";

struct Log {
    file: Option<File>,
    format: LogFormat,
    level: Level,
}

impl Log {
    fn line(&self, level: Level, message: &str) -> String {
        let time = crate::timestamp::now();
        let level = match level {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        match self.format {
            LogFormat::Json => {
                let mut line = json!({"level": level, "msg": message, "time": time}).to_string();
                line.push('\n');
                line
            }
            LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let own = metadata.target().starts_with(OWN);
        let most = if own { self.level } else { Level::WARN };
        *metadata.level() <= most && (own || self.file.is_some())
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let metadata = event.metadata();
        let level = *metadata.level();
        if let Some(mut file) = self.file.as_ref() {
            let _ = file.write_all(self.line(level, &message.0).as_bytes());
        } else if self.level >= Level::DEBUG {
            // As runc has it: who asks for everything gets it as for a file.
            let _ = io::stderr().write_all(self.line(level, &message.0).as_bytes());
        } else if metadata.target() != FATAL {
            let _ = writeln!(
                io::stderr(),
                "cofferdam: {}: {}",
                level.as_str().to_ascii_lowercase(),
                message.0
            );
        }
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Collects an event's message, and its fields behind it.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_causes_is_one_line_and_says_nothing_twice() {
        let cause = io::Error::other("disk on fire");
        let error = LogError { path: "/l".into(), source: cause };
        assert_eq!(with_causes(&error), "Cannot open the log /l: disk on fire");
    }

    #[test]
    fn a_line_of_json_is_what_engines_read() {
        let log = Log { file: None, format: LogFormat::Json, level: Level::WARN };
        let line: serde_json::Value =
            serde_json::from_str(&log.line(Level::ERROR, "a \"b\"\n")).unwrap();
        assert_eq!(line["level"], "error");
        assert_eq!(line["msg"], "a \"b\"\n");
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_line_of_text_stays_one_line() {
        let log = Log { file: None, format: LogFormat::Text, level: Level::WARN };
        let line = log.line(Level::WARN, "a\nb");
        assert_eq!(line.lines().count(), 1);
        assert!(line.contains("level=warning msg=\"a\\nb\""));
    }
}
