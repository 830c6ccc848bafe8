//! Fuzz target: `job_fuzz::encoding` says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| job_fuzz::encoding(input));
