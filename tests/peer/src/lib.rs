//! An Aeron Cluster client made of parts that Coracle did not write: the streams are the real C
//! client's over the real C media driver, the session messages are written here from the
//! published layout of schema 111. Nothing of `coracle-core` is used.

pub mod codec;
pub mod driver;
pub mod echo;
pub mod machines;
pub mod session;
pub mod workload;
