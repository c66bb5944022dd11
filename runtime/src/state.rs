//! What is known of a container between two runs of this program: `<root>/<id>/state.json`.
//!
//! ```text
//!   <root>/<id>/
//!       state.json     Record, replaced atomically
//!       lock           flock: held by the verb that changes the container
//!       config.json    the bundle's, as it was at create
//!       …              the sandbox's own
//! ```
//!
//! The folder appears by one rename with its first record in it: of two creations with the same
//! id one wins, and there is no folder without a record.
//!
//! What this is not: it starts and ends nothing. Whether a container runs is computed from its
//! process ([`crate::host::process`]), never believed.

pub mod record;
pub mod status;
pub mod store;
