//! What is fuzzed, as plain functions over bytes: under libFuzzer by `fuzz_targets/`, and on stable
//! Rust with random and damaged bytes by `tests/smoke.rs`. A target finds a bug by panicking.

pub mod kv;
pub mod node;
pub mod recovery;
pub mod snapshot;
pub mod wire;
