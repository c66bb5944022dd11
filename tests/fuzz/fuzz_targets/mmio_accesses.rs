//! Register accesses of a driver, in any order.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cofferdam_virtio::fuzzing::mmio_accesses(bytes));
