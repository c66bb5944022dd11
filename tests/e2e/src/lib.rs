//! The fixture of the end-to-end scenarios: bundles, runtimes, outcomes, and the machine's state
//! before and after.
//!
//! A scenario reads as a specification: a bundle is described, a runtime runs it, the outcome is
//! compared with what is promised, and where runc can do the same, with what runc does.
//!
//! A file of scenarios runs in both modes; one named `microvm_*` or `namespace_*` in that mode only.
//! One named `*_v2` takes cgroup v2 alone: elsewhere its scenarios are counted as skipped.
//! One named `*_beside_runc` runs in namespaces where it is started, and not in the lab again.
//!
//! `cargo xtask e2e` sets the environment: `COFFERDAM_BIN` (folder of the binaries),
//! `COFFERDAM_MODE` (`namespace` or `microvm`), `COFFERDAM_BUSYBOX`, `COFFERDAM_DEBIAN`,
//! `COFFERDAM_MACHINE` and `COFFERDAM_STACK` (root file systems), `COFFERDAM_PROBE_BIN` (the static
//! guest probe). Without it the tests fail and say so: nothing here skips by itself.

// A fixture is part of a test: it stops at the first thing that is not as it must be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

mod archive;
mod bundle;
pub mod conformance;
mod console;
mod containerd;
pub mod counting;
pub mod cri;
mod delegated;
mod disk;
mod docker;
mod exposition;
mod forwarding;
mod grpc;
mod image;
mod injection;
mod leftovers;
mod monitor;
mod netns;
mod outcome;
mod patience;
mod podman;
mod runtime;
mod shim;
mod snapshot;
mod systemd;
mod transcript;
mod user;
mod wire;

pub use archive::archive;
pub use bundle::Bundle;
pub use console::{ConsoleSocket, Terminal};
pub use containerd::Containerd;
pub use cri::Cri;
pub use delegated::Delegated;
pub use disk::Disk;
pub use docker::{Docker, IMAGE as DOCKER_IMAGE, SHARING};
pub use exposition::Exposition;
pub use forwarding::Forwarding;
pub use grpc::Refusal;
pub use image::Image;
pub use injection::{Fault, Injection, Step, steps_of};
pub use leftovers::Leftovers;
pub use monitor::monitor_kib;
pub use netns::inside_network;
pub use outcome::Outcome;
pub use patience::until;
pub use podman::{IMAGE as PODMAN_IMAGE, Podman};
pub use runtime::{Container, Runtime, finish_detaching, probe};
pub use shim::Shim;
pub use snapshot::Snapshot;
pub use systemd::Systemd;
pub use transcript::Transcript;
pub use user::User;
pub use wire::{HOST, HOST6, INSIDE, INSIDE6, Wire};

/// What a scenario runs in, from `COFFERDAM_MODE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Hardened namespaces.
    Namespace,
    /// A guest kernel of its own.
    MicroVm,
}

impl Mode {
    /// The mode of this run.
    #[must_use]
    pub fn current() -> Self {
        match setting("COFFERDAM_MODE").as_str() {
            "namespace" => Self::Namespace,
            "microvm" => Self::MicroVm,
            other => panic!("COFFERDAM_MODE is {other:?}: namespace or microvm"),
        }
    }

    /// As `--isolation` takes it.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::MicroVm => "microvm",
        }
    }
}

/// A variable that `cargo xtask e2e` sets.
#[must_use]
pub fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `cargo xtask e2e`"))
}
