//! `cargo xtask bench engines`: what a container costs through containerd, beside runc through the
//! same containerd in the same run; with `--pods`, whether so many pods at once come and go.
//!
//! A time is divided in two: what `ctr` and containerd themselves had the processor for, which is the
//! engine's part and the same whatever it runs, and the rest, which is the runtime's: its shim and all
//! that the shim starts, the host's kernel and the guest. The lab has one processor, so that nothing is
//! done beside the two and the rest is everything else.
//!
//! [`measure`] and [`crowd`] run in the lab; [`report`] is what they hand back. [`containerd`] is the
//! engine, [`handler`] how it is told of a runtime, [`pod`] a pod as annotations make one, and
//! [`leftovers`] what one may not leave.

mod containerd;
mod crowd;
mod handler;
mod leftovers;
pub(super) mod measure;
mod pod;
pub(super) mod report;
