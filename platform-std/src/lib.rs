//! Coracle on Linux: UDP sockets, segment files, a flush thread, and the `coracle` command.

pub mod config;
pub mod crc;
pub mod storage;
pub mod waker;
pub mod worker;
