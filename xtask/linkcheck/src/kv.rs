//! The key-value service in lent memory: what it holds, what it answers, what it refuses.

use coracle_core::service::kv::Kv;
use coracle_core::service::kv::codec::{Reply, Request, decode_reply, encode_request};
use coracle_core::service::{Cluster, OfferError, Outbox, Role, Service};
use coracle_core::time::Timestamp;
use coracle_core::units::{MemberId, Position, SessionId};

use crate::Failed;

const ANSWER_MAX: usize = 512;

/// Keeps the last answer.
struct Answers {
    bytes: [u8; ANSWER_MAX],
    len: usize,
}

impl Outbox for Answers {
    fn offer(&mut self, _: SessionId, parts: &[&[u8]]) -> Result<(), OfferError> {
        self.len = 0;
        for part in parts {
            let end = self.len + part.len();
            let into = self.bytes.get_mut(self.len..end);
            into.ok_or(OfferError::TooLong)?.copy_from_slice(part);
            self.len = end;
        }
        Ok(())
    }

    fn close_session(&mut self, _: SessionId) -> Result<(), OfferError> {
        Err(OfferError::UnknownSession)
    }
}

/// A service and the log that feeds it, which is a counter here.
struct Story {
    service: Kv<&'static mut [u8]>,
    answers: Answers,
    position: u64,
}

impl Story {
    /// Has one request executed; true if `is_right` says so of the answer.
    fn ask(
        &mut self,
        request: &Request<'_>,
        is_right: fn(&Reply<'_>) -> bool,
    ) -> Result<(), Failed> {
        self.position += 32;
        let position = Position::new(self.position);
        let session = SessionId::from_wire(32).ok_or(Failed("a session"))?;
        let member = MemberId::new(0).ok_or(Failed("a member id"))?;
        let encoded = encode_request(self.position, request);
        let mut message = [0; ANSWER_MAX];
        let mut len = 0;
        for part in encoded.parts() {
            let into = message.get_mut(len..len + part.len());
            into.ok_or(Failed("room for a request"))?
                .copy_from_slice(part);
            len += part.len();
        }
        let message = message.get(..len).unwrap_or_default();
        let answers = &mut self.answers;
        let mut cluster = Cluster::new(Timestamp(0), position, member, Role::Leader, answers);
        self.service
            .on_session_message(&mut cluster, session, message);
        let answer = answers.bytes.get(..answers.len).unwrap_or_default();
        match decode_reply(answer) {
            Ok((correlation, reply)) if correlation == self.position && is_right(&reply) => Ok(()),
            _ => Err(Failed("the key-value service answers")),
        }
    }
}

/// Every verb once.
pub fn run(memory: &'static mut [u8]) -> Result<(), Failed> {
    let mut story = Story {
        service: Kv::new(memory),
        answers: Answers {
            bytes: [0; ANSWER_MAX],
            len: 0,
        },
        position: 0,
    };
    let (key, blank) = (&b"colour"[..], story.service.digest());
    let (value, newer) = (&b"blue"[..], &b"green"[..]);
    story.ask(&Request::Put { key, value }, |reply| {
        matches!(reply, Reply::Done { .. })
    })?;
    story.ask(
        &Request::Get { key },
        |reply| matches!(reply, Reply::Value { value, .. } if *value == b"blue"),
    )?;
    let stale = Request::Cas {
        key,
        expected: 1,
        value: newer,
    };
    story.ask(&stale, |reply| matches!(reply, Reply::Conflict { .. }))?;
    story.ask(&Request::Delete { key }, |reply| {
        matches!(reply, Reply::Done { .. })
    })?;
    story.ask(&Request::Get { key }, |reply| {
        matches!(reply, Reply::NotFound)
    })?;
    match story.service.is_empty() && story.service.digest() == blank {
        true => Ok(()),
        false => Err(Failed("nothing is left")),
    }
}
