//! Cofferdam's OCI runtime: from `config.json` to a process in a sandbox of its own, and back to
//! its exit code.
//!
//! ```text
//!  cli ──▶ commands ──▶ state, spec, config, isolation      what was asked for, checked
//!              │
//!              ▼
//!           sandbox ──▶ plan (pure) ──▶ host                 what will be done, then its effects
//! ```
//!
//! What this is not: it runs no guest and no device. The monitor is a process of its own
//! (`cofferdam-vmm`) that this crate starts and never links.
//!
//! Hostile: what a guest answers (bounded in size and time), and nothing else: the caller and its
//! bundle are the operator's. The bundle's root file system is not: no path in it is followed on
//! the host without care.

pub mod artifacts;
pub mod cgroup;
pub mod cli;
pub mod commands;
pub mod config;
pub mod doctor;
pub mod engines;
pub mod figures;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod host;
pub mod isolation;
pub mod kind;
pub mod metrics;
pub mod places;
pub mod plan;
pub mod probe;
pub mod sandbox;
pub mod spec;
pub mod state;
pub mod timestamp;
