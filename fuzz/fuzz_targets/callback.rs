//! Fuzz target: `job_fuzz::callback` says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| job_fuzz::callback(input));
