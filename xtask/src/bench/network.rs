//! `cargo xtask bench network`: what it costs to move bytes and requests to, from and between
//! containers on a bridge, beside runc in the same run.
//!
//! As with the other benchmark, the lab's clock counts instructions: with one processor that is
//! never idle while bytes move, the time that a MiB takes is the instructions of everybody who has
//! a part in it, both ends' programs included.
//!
//! [`measure`] runs in the lab; [`report`] is what it hands back; [`client`] is the end of the
//! connections that is outside, and the network itself is a [`site`](super::site).

mod client;
pub(super) mod measure;
pub(super) mod report;
