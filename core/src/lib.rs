//! The core of Coracle: cluster consensus without an operating system, an allocator or a thread.
//!
//! A [`node::Node`] is one member of a cluster. It takes facts (`handle_*`), says what it owes
//! (`poll_*`) and calls nothing but the memory and the service it is lent. A driver is a loop:
//!
//! ```text
//! loop {
//!     for datagram in sockets     { node.handle_datagram(now, door, from, datagram, &mut lent) }
//!     node.handle_timeout(now, &mut lent);
//!     while node.poll_ingress(now, &mut auth, &mut lent)
//!         || node.poll_service(now, &mut kv, &mut lent) {}
//!     if let Some(cut) = window.take_cut()        { journal.handle_truncated(cut) }
//!     if let Some(group) = journal.poll_group(..) { write, flush, journal.handle_flushed() }
//!     node.handle_durable(mark of journal.durable());
//!     if let Some(state) = node.poll_persist()    { write, flush, node.handle_persisted(state) }
//!     if let Some(recall) = node.poll_recall(&lent) { read, node.handle_recalled(recall, len) }
//!     while let Some(transmit) = node.poll_transmit(now, &lent, &mut scratch) { send it }
//!     sleep until a datagram, a flush, or node.poll_timeout()
//! }
//! ```
//!
//! # The six laws
//! 1. Every output may be dropped, duplicated or delayed; the protocol recovers.
//! 2. Every input position is monotone; a stale mark is ignored.
//! 3. Calls may come in any order; not polling delays, never corrupts.
//! 4. Each call does bounded work, and its documentation says the bound.
//! 5. The core calls nothing but the memory and the service it was lent, and keeps no reference to
//!    them.
//! 6. Time moves only through `now`; wall time enters only as the timestamp offered for a record.
#![no_std]
#![forbid(unsafe_code)]

pub mod broken;
pub mod castagnoli;
pub mod client;
mod facts;
pub mod gaps;
pub mod limits;
mod list;
pub mod log;
mod lookup;
pub mod node;
#[doc(hidden)]
pub mod planted;
pub mod prng;
pub mod raft;
pub mod service;
pub mod session;
pub mod snapshot;
pub mod stream;
pub mod time;
pub mod timer;
pub mod units;
pub mod wire;
