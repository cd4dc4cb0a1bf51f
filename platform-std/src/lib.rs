//! Coracle on Linux: UDP sockets, segment files, a flush thread, and the `coracle` command.

pub mod apart;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod counters;
pub mod crc;
pub mod demo;
pub mod logging;
pub mod mapped;
pub mod net;
pub mod node;
pub mod signals;
pub mod storage;
pub mod waker;
pub mod walk;
pub mod worker;

/// What README shows compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
