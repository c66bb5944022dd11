//! The walls around the monitor, all of them up before the guest's first instruction.
//!
//! ```text
//!  process   own user, mount, pid, ipc and uts namespaces (made by the runtime), and the container's
//!            network namespace, without a right over it or a socket in it
//!            an empty read-only root; no descriptor but those of the configuration; limits
//!  fs        a mount namespace of its own with the shares alone; the seven capabilities that
//!            serving other users' files takes; Landlock: no program, no device below the shares
//!  others    no capability; Landlock: no file at all
//!  each      no_new_privs and a seccomp filter of its own role
//! ```
//!
//! Hostile: the monitor itself, once the guest has broken a device. What is left to it then is
//! what the filter of that thread lets through.

pub mod landlock;
pub mod limits;
pub mod privileges;
pub mod root;
pub mod seccomp;
mod sys;
