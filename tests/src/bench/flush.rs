//! What one flush of an appended block costs, with nothing beside it.

use std::io;
use std::time::{Duration, Instant};

use super::chain::{BLOCK, Blocks};
use super::load::Latencies;
use crate::process::Scratch;

/// Appends and flushes blocks for some time, one after another.
///
/// # Errors
/// The system's.
pub fn flushes(time: Duration) -> io::Result<Latencies> {
    let scratch = Scratch::new("flush");
    let mut blocks = Blocks::create(&scratch.path().join("blocks"))?;
    let mut latencies = Latencies::new();
    let end = Instant::now() + time;
    while Instant::now() < end {
        let began = Instant::now();
        blocks.append(&[7; BLOCK])?;
        latencies.add(began.elapsed());
    }
    Ok(latencies)
}
