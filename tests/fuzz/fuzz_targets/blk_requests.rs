//! Frames, buffers and broken descriptors of a network driver, and a host beside it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cofferdam_virtio::fuzzing::blk_requests(bytes));
