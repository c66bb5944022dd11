//! The agent of a Cofferdam guest: it executes the plans that the host made.
//!
//! ```text
//!  boot ─▶ serve ─▶ service ─▶ agent ─▶ (process, table, streams, cgroup, listing)
//!   └──▶ lifeline ─▶ suspend ──────┤
//!                                 └──▶ birth ─▶ sys::spawn ─▶ inside: in the new process
//! ```
//! One thread, and no others ever: processes are made by copying it ([`sys`]).
//!
//! Inside the trust zone of the guest: hostile once a workload runs, from the host's view. For the
//! agent itself, the host is more trusted than it, and its containers less.

pub mod agent;
mod birth;
pub mod boot;
mod caches;
mod cgroup;
mod changes;
mod disk;
mod forwards;
mod freeze;
mod inside;
pub mod layout;
mod lifeline;
mod listing;
mod machine;
mod names;
mod network;
mod observe;
mod platform;
pub mod process;
pub mod reaper;
mod redirection;
mod serve;
pub mod service;
mod stdio;
pub mod streams;
pub mod suspend;
mod sys;
mod table;
mod update;

pub use inside::failure::StartError;
