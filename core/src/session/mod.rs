//! Client sessions: the replicated table of them, and the decisions of the session protocol.
//!
//! Nothing here knows a stream, a datagram or this member's role. [`SessionTable`] changes only
//! when a committed record is applied, so it is equal on every member at equal positions.
//! [`Authenticator`] and [`connect`] are what the leader asks before it appends the record that
//! opens a session.

mod auth;
pub mod connect;
mod table;

pub use auth::{
    AllowAdministration, AllowAll, Attempt, Authenticator, Challenge, Principal, SharedSecret,
    Verdict,
};
pub use table::{Channel, Opened, Request, Session, SessionTable};
