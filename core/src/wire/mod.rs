//! Floor 1: bytes on the wire.

pub mod member;
