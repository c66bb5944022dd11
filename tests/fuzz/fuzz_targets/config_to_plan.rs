//! A bundle's `config.json`, from bytes to the plan that the guest gets.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cofferdam::fuzzing::config_to_plan(bytes));
