//! Chunked request bodies, cut into pieces in two ways: the verdict and the end must be the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| web::fuzz::chunked(data));
