//! The data directory of a member: what is written, in which order, and what is believed after a
//! crash.

pub mod dir;
pub mod error;
pub mod segment;
#[cfg(test)]
pub(crate) mod testing;

pub use dir::DataDir;
pub use error::StorageError;
pub use segment::Segment;
