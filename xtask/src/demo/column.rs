//! What was seen of the application in one kind of sandbox, on one machine.

use serde::{Deserialize, Serialize};

/// One column of the demo's table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Column {
    /// `namespace` or `microvm`: what was asked for.
    pub(super) isolation: String,
    /// In the lab, not on this machine.
    pub(super) in_lab: bool,
    /// `dev.cofferdam.isolation.effective` in the container's state.
    pub(super) effective: String,
    /// `dev.cofferdam.isolation.reason`.
    pub(super) reason: String,
    /// What `uname -r` says inside.
    pub(super) kernel: String,
    /// What Python says of itself inside.
    pub(super) python: String,
    /// `create` and `start`, in milliseconds.
    pub(super) start_ms: u64,
    /// From `create` to redis's first answer, in milliseconds.
    pub(super) ready_ms: u64,
    /// Requests a second, as `redis-benchmark` prints them.
    pub(super) set_per_second: String,
    /// The same for GET.
    pub(super) get_per_second: String,
}

impl Column {
    /// Its head.
    pub(super) fn title(&self) -> &'static str {
        match (self.isolation.as_str(), self.in_lab) {
            ("microvm", false) => "microVM",
            ("microvm", true) => "microVM, lab",
            (_, false) => "namespaces",
            (_, true) => "namespaces, lab",
        }
    }
}

/// A row: its name, and its cell in a column.
type Row = (&'static str, fn(&Column) -> String);

/// The rows, in order.
pub(super) const ROWS: &[Row] = &[
    ("isolation in effect", |column| column.effective.clone()),
    ("because", |column| column.reason.clone()),
    ("kernel inside", |column| column.kernel.clone()),
    ("python3 inside", |column| column.python.clone()),
    ("create + start, ms", |column| column.start_ms.to_string()),
    ("until redis answers, ms", |column| column.ready_ms.to_string()),
    ("redis SET, requests/s", |column| column.set_per_second.clone()),
    ("redis GET, requests/s", |column| column.get_per_second.clone()),
];
