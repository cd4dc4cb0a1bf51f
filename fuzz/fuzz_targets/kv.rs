//! See `coracle_fuzz::kv`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    coracle_fuzz::kv::run(bytes);
});
