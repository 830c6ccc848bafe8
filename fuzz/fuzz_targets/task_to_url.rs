//! Fuzz target: `job_fuzz::task_to_url` says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| job_fuzz::task_to_url(input));
