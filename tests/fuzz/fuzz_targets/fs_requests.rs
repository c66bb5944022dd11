//! Requests of a file system driver, against an empty folder.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder to share");
    cofferdam_virtio::fuzzing::fs_requests(folder.path(), bytes);
});
