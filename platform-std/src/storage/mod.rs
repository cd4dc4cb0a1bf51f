//! The data directory of a member: what is written, in which order, and what is believed after a
//! crash.

mod ahead;
pub mod dir;
pub mod error;
pub mod label;
pub mod log;
mod place;
pub mod recover;
pub mod segment;
mod slots;
pub mod snapshots;
mod spares;
pub mod start;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
mod unreadable;

pub use dir::DataDir;
pub use error::StorageError;
pub use log::{Flushing, LogStore};
pub use segment::Segment;
pub use snapshots::SnapshotStore;
pub use state::NodeStateFile;
