//! Floor 1: bytes on the wire.
//!
//! Two levels: small `Copy` values with `parse` and `emit`, and views that lend the bytes of a
//! datagram for what is long. Whatever a datagram holds, `parse` answers with a value or a typed
//! [`Reject`]; nothing here panics on it. `emit` answers `None` if the bytes do not fit `out`, and
//! has then left unspecified bytes there.

pub mod admission;
mod bytes;
pub mod channel;
pub mod cluster;
pub mod frame;
#[cfg(test)]
pub(crate) mod golden;
pub mod member;
mod reject;
pub mod sbe;
pub mod status;

pub use bytes::{Reader, Writer};
pub use reject::Reject;
