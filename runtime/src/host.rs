//! Effects on the host: descriptors, terminals, processes, files. Nothing here decides.

pub mod process;
pub mod stdio;
