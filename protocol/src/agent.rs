//! The agent's RPC service, generated from `proto/agent.proto`: messages here, the service in
//! [`service`].

// Generated: its style is not ours to hold.
#![allow(missing_docs, unreachable_pub, unused, nonstandard_style, rust_2018_idioms)]
#![allow(clippy::all, clippy::pedantic)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

include!(concat!(env!("OUT_DIR"), "/agent.rs"));

/// The service's client and server halves.
pub mod service {
    // The generated code names its messages `super::agent::…`.
    use super as agent;

    mod generated {
        include!(concat!(env!("OUT_DIR"), "/agent_ttrpc.rs"));
    }

    pub use generated::*;
}
