//! UDP: the two doors of a node, the group of the log, datagrams in batches, and names to
//! addresses.

pub mod batch;
pub mod group;
pub mod poll;
pub mod resolve;
pub mod socket;

pub use batch::{ReceiveBatch, SendBatch};
pub use group::{Group, GroupError};
pub use poll::wait;
pub use resolve::{Resolver, resolve};
pub use socket::Socket;
