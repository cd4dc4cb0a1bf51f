//! For tests of services: keeps what they send.

extern crate std;
use std::vec::Vec;

use crate::service::{Cluster, OfferError, Outbox, Role};
use crate::time::Timestamp;
use crate::units::{MemberId, Position, SessionId};

/// Keeps what is offered.
#[derive(Default)]
pub struct Recorder {
    /// Sessions and bytes.
    pub sent: Vec<(SessionId, Vec<u8>)>,
    /// Whether every session is said to be gone.
    pub refuse: bool,
}

impl Recorder {
    /// Runs one callback as if for the record that ends at `position`.
    pub fn at(&mut self, position: Position, run: impl FnOnce(&mut Cluster<'_>)) {
        let member = MemberId::new(0).expect("0 is a member");
        run(&mut Cluster::new(
            Timestamp(0),
            position,
            member,
            Role::Leader,
            self,
        ));
    }
}

impl Outbox for Recorder {
    fn offer(&mut self, session: SessionId, parts: &[&[u8]]) -> Result<(), OfferError> {
        if self.refuse {
            return Err(OfferError::UnknownSession);
        }
        self.sent.push((session, parts.concat()));
        Ok(())
    }

    fn close_session(&mut self, _session: SessionId) -> Result<(), OfferError> {
        Err(OfferError::UnknownSession)
    }
}
