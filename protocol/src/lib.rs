//! Every byte that crosses a process boundary of Cofferdam, and the bound on each of its sizes.
//!
//! ```text
//!             VmConfig (fd)        vsock 1025: streams
//!  runtime ────────────────▶ vmm ◀────────────────────▶ agent
//!     │  ◀── BootReport (fd)  │  ◀── vsock 1024: lifeline │
//!     │  ──── control ──────▶ │                           │
//!     └───────── ttrpc (control → vsock 1026) ────────────┘
//!                             └─── vsock 1027: changes ──▶
//! ```
//!
//! What this is not: it opens, connects and decides nothing. It is types, their encodings and
//! their limits, so that both sides of a boundary share one definition.
//!
//! Hostile: everything that the guest writes (lifeline frames, RPC answers). Parsers here accept
//! arbitrary bytes, never panic and never allocate more than a named bound.

#[cfg(feature = "rpc")]
pub mod agent;
pub mod boot;
pub mod bounds;
pub mod change;
pub mod control;
pub mod forward;
pub mod frame;
pub mod id;
pub mod lifeline;
pub mod monitor_metrics;
pub mod names;
pub mod netlink;
pub mod network;
pub mod plan;
pub mod probe;
pub mod stream;
pub mod vm_config;
