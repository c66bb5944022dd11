//! A sandbox: what a container runs in. Two kinds behind the same verbs, and the only place that
//! knows that there are two.
//!
//! ```text
//!            create                 start                 (init ends | kill)        delete
//!   (none) ─────────▶ Created ─────────────▶ Running ─────────────────────▶ Stopped ───────▶ (none)
//!                        │                                                     ▲
//!                        └──────────────────── kill ───────────────────────────┘
//! ```
//!
//! Which verb is allowed in which status is [`crate::state`]'s to say; what a verb does is each
//! kind's own: [`microvm`] (a monitor process with a guest kernel) and [`namespace`] (hardened
//! namespaces on `libcontainer`). There is no trait: the two are an enum, matched here.

pub mod microvm;
pub mod namespace;
pub mod request;
