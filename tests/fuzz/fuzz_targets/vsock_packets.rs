//! Packets, buffers and broken descriptors of a socket driver, and a host beside it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cofferdam_virtio::fuzzing::vsock_packets(bytes));
