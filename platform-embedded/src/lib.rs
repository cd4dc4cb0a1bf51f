//! A Coracle node where there is no operating system: one loop, no threads, no allocator.
//!
//! A board implements three small traits, [`Clock`], [`Network`] and [`Storage`], lends memory, and
//! calls [`Superloop::turn`] for ever. The node, the log, its journal and its recovery are those of
//! `coracle-core`, the same that run on Linux and in the simulator.
//!
//! ```text
//! loop {
//!     let next = superloop.turn()?;
//!     board.sleep_until(next);    // or until a datagram arrives
//! }
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod fmt;

mod buffered;
mod device;
pub mod identity;
mod keeper;
#[cfg(feature = "smoltcp")]
pub mod net;
mod nor;
mod profile;
mod store;
mod superloop;

pub use buffered::{Block, Buffered};
pub use device::{Clock, Network, Storage};
pub use nor::Nor;
pub use profile::Profile;
pub use store::{CHECKED_AT_ONCE, Finish, Layout, Sink, Source, Store, StoreError, Wear, Worn};
pub use superloop::{Application, Memory, Next, OpenError, Superloop, TurnError};
