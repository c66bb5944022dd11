//! What the fuzz targets call, and what the same properties are tested with in normal tests: a
//! driver to play, and functions from arbitrary bytes to "it did not panic, hang or grow".
//!
//! Not part of a build without the feature `fuzzing`.
#![allow(clippy::unwrap_used, reason = "a broken fixture is to be seen at once")]

mod driver;

pub use driver::{BUFFERS, Driver, MEMORY_BYTES, Piece, QUEUE_SIZE};
