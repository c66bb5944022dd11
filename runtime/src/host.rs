//! Effects on the host: descriptors, terminals, processes, files. Nothing here decides.

pub mod digest;
pub mod document;
pub mod hooks;
pub mod id_maps;
pub mod log;
pub mod network_namespace;
pub mod own_file;
pub mod process;
pub mod relay;
pub mod replace;
pub mod signals;
pub(crate) mod socket_lookup;
pub mod stdio;
pub mod subordinate;
pub(crate) mod sys;
pub mod terminal;
pub mod undo;
pub mod user;
