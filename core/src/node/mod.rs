//! Floor 3: the node.

pub mod clients;
