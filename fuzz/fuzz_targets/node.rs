//! See `coracle_fuzz::node`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    coracle_fuzz::node::run(bytes);
});
