//! A machine that was saved, with anything in what is written down of its devices.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder to share");
    cofferdam_virtio::fuzzing::saved_devices(folder.path(), bytes);
});
