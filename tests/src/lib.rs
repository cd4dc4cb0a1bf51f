//! The tests of Coracle that need more than one room: a deterministic simulator of whole clusters
//! with their clients, networks, clocks and disks, and scenario pictures in text.

pub mod scenario;
pub mod sim;
