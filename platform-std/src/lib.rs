//! Coracle on Linux: UDP sockets, segment files, a flush thread, and the `coracle` command.

pub mod config;
pub mod counters;
pub mod crc;
pub mod net;
pub mod signals;
pub mod storage;
pub mod waker;
pub mod walk;
pub mod worker;
