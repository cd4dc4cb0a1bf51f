//! The tests of Coracle that need more than one room: a deterministic simulator of whole clusters
//! with their clients, networks, clocks and disks, scenario pictures in text, clusters of real
//! processes, and what these are measured by.

pub mod bench;
pub mod copies;
pub mod instructions;
pub mod process;
pub mod scenario;
pub mod sim;
