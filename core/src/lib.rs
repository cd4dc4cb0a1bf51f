//! The core of Coracle: cluster consensus without an operating system, an allocator or a thread.
#![no_std]
#![forbid(unsafe_code)]

pub mod client;
pub mod gaps;
pub mod limits;
pub mod log;
pub mod node;
#[doc(hidden)]
pub mod planted;
pub mod prng;
pub mod raft;
pub mod service;
pub mod session;
pub mod stream;
pub mod time;
pub mod units;
pub mod wire;
