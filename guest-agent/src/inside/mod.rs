//! What a new process of a container does before it becomes the container's program.
//!
//! Everything here runs in a process of its own, a copy of the agent just made by
//! [`crate::sys::spawn`], with one thread, which ends in `execve` or in `_exit`. It reports to the
//! agent over its [`channel::ChildEnd`].
//!
//! ```text
//!  container's init:  namespaces ▶ root ▶ mounts ▶ devices ▶ pivot ▶ identity ▶ look-up
//!                       ▶ "ready" ▶ … start … ▶ hooks ▶ seccomp ▶ execve
//!  one more process:  join namespaces ▶ terminal ▶ identity ▶ look-up ▶ seccomp ▶ execve
//! ```
//!
//! Hostile: for one more process, every file of the container (its program may have changed
//! them). Nothing here trusts a path of the container but by opening it beneath the root, and
//! nothing that blocks on such a path can hold up the agent.

pub(crate) mod capabilities;
pub(crate) mod channel;
pub(crate) mod container;
pub(crate) mod copy_up;
pub(crate) mod devices;
pub(crate) mod failure;
pub(crate) mod hidden;
pub(crate) mod hooks;
pub(crate) mod identity;
pub(crate) mod mounts;
pub(crate) mod newcomer;
pub(crate) mod program;
pub(crate) mod root;
pub(crate) mod scheduling;
pub(crate) mod terminal;
pub(crate) mod time;
pub(crate) mod users;
