//! See `coracle_fuzz::recovery`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    coracle_fuzz::recovery::run(bytes);
});
