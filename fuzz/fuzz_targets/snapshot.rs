//! See `coracle_fuzz::snapshot`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    coracle_fuzz::snapshot::run(bytes);
});
