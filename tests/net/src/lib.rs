//! What Coracle's tests on real networks share: plain output, tools that may be missing, node
//! processes, a relay that loses datagrams, captures judged by `tshark`, and networks made of
//! Linux namespaces.
//!
//! Nothing here uses Coracle's own crates: these tests look at the programs from outside.

pub mod capture;
pub mod cluster;
pub mod frames;
pub mod gate;
pub mod namespace;
pub mod relay;
pub mod scratch;
pub mod stage;
