//! The messages by which CRI describes a pod, generated from `proto/pod.proto`.

// Generated: its style is not ours to hold.
#![allow(missing_docs, unreachable_pub, unused, nonstandard_style, rust_2018_idioms)]
#![allow(clippy::all, clippy::pedantic)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

include!(concat!(env!("OUT_DIR"), "/pod.rs"));
