//! What callbacks have called, as bytes: noted where a service runs, called again on its node.
//!
//! ```text
//! begin 1, position u64                  a callback for the record that ends there
//! offer 2, session u64, length u32, bytes
//! close 3, session u64
//! to the log 4, length u32, bytes
//! schedule 5, correlation i64, deadline i64
//! cancel 6, correlation i64
//! end 7, digest u64                      of the service, after the callback
//! ```
//! Little endian. Only calls that had an effect are noted: the others have none on the node either.

use super::BACKLOG_MAX;
use coracle_core::service::{
    CloseReason, Cluster, LeadershipTerm, OfferError, Outbox, Role, Service, TimerError,
};
use coracle_core::time::Timestamp;
use coracle_core::units::{Position, ServiceId, SessionId};

const BEGIN: u8 = 1;
const OFFER: u8 = 2;
const CLOSE: u8 = 3;
const TO_LOG: u8 = 4;
const SCHEDULE: u8 = 5;
const CANCEL: u8 = 6;
const END: u8 = 7;

/// A service whose callbacks' calls are noted in `calls`.
pub struct Noted<'a, S> {
    pub service: &'a mut S,
    pub calls: &'a mut Vec<u8>,
}

/// What one callback of a noted service acts on.
struct Noting<'a, 'c> {
    cluster: &'a mut Cluster<'c>,
    calls: &'a mut Vec<u8>,
}

impl Noting<'_, '_> {
    fn note(&mut self, kind: u8, numbers: &[u64]) {
        self.calls.push(kind);
        for number in numbers {
            self.calls.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn note_parts(&mut self, parts: &[&[u8]]) {
        // Longer ones than the longest message are refused.
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self.calls.extend_from_slice(&(length as u32).to_le_bytes());
        for part in parts {
            self.calls.extend_from_slice(part);
        }
    }
}

impl Outbox for Noting<'_, '_> {
    fn offer(&mut self, session: SessionId, parts: &[&[u8]]) -> Result<(), OfferError> {
        self.cluster.offer(session, parts)?;
        self.note(OFFER, &[session.opened_at().get()]);
        self.note_parts(parts);
        Ok(())
    }

    fn close_session(&mut self, session: SessionId) -> Result<(), OfferError> {
        self.cluster.close_session(session)?;
        self.note(CLOSE, &[session.opened_at().get()]);
        Ok(())
    }

    fn offer_to_log(&mut self, parts: &[&[u8]]) -> Result<(), OfferError> {
        self.cluster.offer_to_log(parts)?;
        self.note(TO_LOG, &[]);
        self.note_parts(parts);
        Ok(())
    }

    fn schedule_timer(&mut self, correlation: i64, deadline: Timestamp) -> Result<(), TimerError> {
        self.cluster.schedule_timer(correlation, deadline)?;
        self.note(SCHEDULE, &[correlation as u64, deadline.0 as u64]);
        Ok(())
    }

    fn cancel_timer(&mut self, correlation: i64) -> Result<bool, TimerError> {
        let was_armed = self.cluster.cancel_timer(correlation)?;
        if was_armed {
            self.note(CANCEL, &[correlation as u64]);
        }
        Ok(was_armed)
    }

    fn session_at(&self, index: usize) -> Option<SessionId> {
        self.cluster.session_at(index)
    }
}

impl<S: Service> Noted<'_, S> {
    fn note(&mut self, cluster: &mut Cluster<'_>, callback: impl FnOnce(&mut S, &mut Cluster<'_>)) {
        let (time, position) = (cluster.time(), cluster.position());
        let (member, role) = (cluster.member(), cluster.role());
        let mut noting = Noting {
            cluster,
            calls: &mut *self.calls,
        };
        noting.note(BEGIN, &[position.get()]);
        let mut through = Cluster::new(time, position, member, role, &mut noting);
        callback(&mut *self.service, &mut through);
        let digest = self.service.digest();
        noting.note(END, &[digest]);
    }
}

impl<S: Service> Service for Noted<'_, S> {
    /// A few records may call far more than they are long.
    fn ready(&self, at: Position) -> bool {
        self.calls.len() <= BACKLOG_MAX && self.service.ready(at)
    }

    fn is_broken(&self) -> bool {
        self.service.is_broken()
    }

    fn on_start(&mut self, cluster: &mut Cluster<'_>) {
        self.service.on_start(cluster);
    }

    fn on_role_change(&mut self, cluster: &mut Cluster<'_>, role: Role) {
        self.service.on_role_change(cluster, role);
    }

    fn on_terminate(&mut self, cluster: &mut Cluster<'_>) {
        self.service.on_terminate(cluster);
    }

    fn on_session_open(&mut self, c: &mut Cluster<'_>, session: SessionId, principal: &[u8]) {
        self.note(c, |service, c| {
            service.on_session_open(c, session, principal);
        });
    }

    fn on_session_close(&mut self, c: &mut Cluster<'_>, session: SessionId, reason: CloseReason) {
        self.note(c, |service, c| service.on_session_close(c, session, reason));
    }

    fn on_session_message(&mut self, c: &mut Cluster<'_>, session: SessionId, message: &[u8]) {
        self.note(c, |service, c| {
            service.on_session_message(c, session, message);
        });
    }

    fn on_timer_event(&mut self, c: &mut Cluster<'_>, correlation: i64, deadline: Timestamp) {
        self.note(c, |service, c| {
            service.on_timer_event(c, correlation, deadline);
        });
    }

    fn on_service_message(&mut self, c: &mut Cluster<'_>, from: ServiceId, message: &[u8]) {
        self.note(c, |service, c| service.on_service_message(c, from, message));
    }

    fn on_new_leadership_term(&mut self, c: &mut Cluster<'_>, term: &LeadershipTerm) {
        self.note(c, |service, c| service.on_new_leadership_term(c, term));
    }

    fn digest(&self) -> u64 {
        self.service.digest()
    }
}

/// Noted calls as they are called again.
#[derive(Debug, Default)]
pub struct Calls {
    bytes: Vec<u8>,
    at: usize,
}

impl Calls {
    /// How many bytes are not called yet.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.at = 0;
    }

    /// Takes further ones, and leaves `more` empty. Allocates only if there are more at once than
    /// ever before.
    pub fn take(&mut self, more: &mut Vec<u8>) {
        if self.len() == 0 {
            self.clear();
            std::mem::swap(&mut self.bytes, more);
        } else {
            if self.at > self.bytes.len() / 2 {
                self.bytes.drain(..std::mem::take(&mut self.at));
            }
            self.bytes.append(more);
        }
    }

    /// Calls again what the next callback has called, which must be the one that `cluster` is for;
    /// gives back the service's digest after it.
    ///
    /// # Panics
    /// If what was called is of another callback, or has another outcome here: the two have not
    /// executed the same, which can only be a bug of ours.
    pub fn replay(&mut self, cluster: &mut Cluster<'_>) -> u64 {
        assert!(self.byte() == BEGIN, "a callback begins");
        let position = Position::new(self.number());
        assert!(position == cluster.position(), "the same callback");
        loop {
            let same = match self.byte() {
                OFFER => {
                    let session = self.session();
                    cluster.offer(session, &[self.part()]).is_ok()
                }
                CLOSE => cluster.close_session(self.session()).is_ok(),
                TO_LOG => cluster.offer_to_log(&[self.part()]).is_ok(),
                SCHEDULE => {
                    let correlation = self.number() as i64;
                    let deadline = Timestamp(self.number() as i64);
                    cluster.schedule_timer(correlation, deadline).is_ok()
                }
                CANCEL => cluster.cancel_timer(self.number() as i64) == Ok(true),
                END => return self.number(),
                other => unreachable!("no call has the number {other}"),
            };
            assert!(same, "the same call has the same outcome");
        }
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn session(&mut self) -> SessionId {
        SessionId::new(Position::new(self.number()))
    }

    fn part(&mut self) -> &[u8] {
        let length = u32::from_le_bytes(self.array()) as usize;
        let from = self.at;
        self.at += length;
        &self.bytes[from..self.at]
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let from = self.at;
        self.at += N;
        let bytes = self.bytes[from..self.at].first_chunk();
        *bytes.expect("calls are handed over whole")
    }
}
