//! The key-value service and its codec: the bytes are a run of messages, each led by its length.
//! Two members that execute the same messages stay equal, whatever lies in their memory.

use coracle_core::service::kv::Kv;
use coracle_core::service::kv::codec;
use coracle_core::service::{CloseReason, Cluster, OfferError, Outbox, Role, Service};
use coracle_core::time::Timestamp;
use coracle_core::units::{MemberId, Position, SessionId};

const MEMORY: usize = 512;

/// Keeps a digest of what was sent, by its whole bytes.
#[derive(Default, PartialEq, Eq, Debug)]
struct Sent(Vec<(SessionId, Vec<u8>)>);

impl Outbox for Sent {
    fn offer(&mut self, session: SessionId, parts: &[&[u8]]) -> Result<(), OfferError> {
        let bytes = parts.concat();
        codec::decode_reply(&bytes).expect("what the service sends decodes");
        self.0.push((session, bytes));
        Ok(())
    }

    fn close_session(&mut self, _session: SessionId) -> Result<(), OfferError> {
        Err(OfferError::UnknownSession)
    }
}

/// Executes one run of messages on two members; says how many were understood.
pub fn run(bytes: &[u8]) -> usize {
    let mut taken = 0;
    let mut members = [Kv::new([0; MEMORY]), Kv::new([0xff; MEMORY])];
    let mut rest = bytes;
    let mut at = Position::ZERO;
    while let Some((&[session, len], after)) = rest.split_first_chunk::<2>() {
        let (message, after) = after.split_at(after.len().min(usize::from(len)));
        rest = after;
        at = at.plus(64);
        taken += usize::from(codec::decode_request(message).is_ok());
        let [one, two] = members
            .each_mut()
            .map(|kv| execute(kv, at, session, message));
        assert_eq!(one, two);
        let [one, two] = members.each_ref().map(|kv| kv.digest());
        assert_eq!(one, two);
    }
    taken
}

/// Session numbers from 128 on close the session instead of sending the message.
fn execute(kv: &mut Kv<[u8; MEMORY]>, at: Position, session: u8, message: &[u8]) -> Sent {
    let mut sent = Sent::default();
    let member = MemberId::new(0).expect("0 is a member");
    let id = SessionId::new(Position::new(u64::from(session % 4) * 32));
    let cluster = &mut Cluster::new(Timestamp(0), at, member, Role::Leader, &mut sent);
    match session {
        0..128 => kv.on_session_message(cluster, id, message),
        _ => kv.on_session_close(cluster, id, CloseReason::Timeout),
    }
    sent
}
