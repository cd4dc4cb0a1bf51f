//! What nodes copy for each byte of payload, and that a copy too many is found.

use std::process::Command;

use crate::chores::{cargo, planted, root, words};
use crate::steps::Steps;

/// Counts, compares with the limits, and does so once more with a node that copies what it receives
/// once too often.
pub fn run(steps: &mut Steps) {
    let name = "copies";
    if !cfg!(target_arch = "x86_64") {
        return steps.cannot(name, "what counts is written for x86-64 only");
    }
    let mut build = Command::new("cargo");
    let manifest = "build --release --quiet --manifest-path tests/copies/Cargo.toml";
    build.current_dir(root()).args(words(manifest));
    build.args(["--target-dir", "target/copies"]);
    steps.run("build what counts copies", 10, &mut build);
    let preload = root().join("target/copies/release/libcoracle_copies.so");
    let line = "run --release --quiet -p coracle-tests --bin copies -- --preload";
    steps.run(name, 20, cargo(words(line)).arg(&preload));
    let bin = "build --release --quiet -p coracle-std --bin coracle";
    steps.run("build the planted copy", 20, &mut planted(words(bin)));
    let mut command = cargo(words(line));
    command
        .arg(&preload)
        .arg("--planted")
        .env("CORACLE_BIN", root().join("target/planted/release/coracle"));
    steps.run("copies --planted", 10, &mut command);
}
