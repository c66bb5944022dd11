//! Effects on the host: descriptors, terminals, processes, files. Nothing here decides.

pub mod log;
pub mod process;
pub mod replace;
pub mod stdio;
pub mod undo;
