//! The figures of this machine, for Prometheus: what is there now (the containers of every state
//! folder, and what their monitors count), and what commands have noted ([`crate::figures`]).
//!
//! ```text
//!  state folders ─┐
//!  monitors ──────┼─▶ Snapshot ─▶ families (pure) ─▶ OpenMetrics, or JSON ─▶ standard output, HTTP
//!  noted figures ─┘
//! ```
//!
//! What this is not: no guest is asked anything, and nothing is kept between two looks.
//!
//! Values are wrong by no construction: they are unsigned integers of counters that only grow, and
//! labels are names of closed sets, numbers, container ids and the operator's own folders.
//!
//! Hostile: a monitor, which its guest may have taken over. It can lie about itself, in bounded time
//! and space; and whoever connects to the server.

pub mod exposition;
mod families;
pub mod server;
mod snapshot;

pub use families::{Family, families};
pub use snapshot::{Roots, Snapshot};
