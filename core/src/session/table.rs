//! The replicated table of open sessions.

use crate::limits::CHANNEL_MAX;
use crate::session::Principal;
use crate::time::Timestamp;
use crate::units::SessionId;

/// Where a client wants its egress, e.g. `aeron:udp?endpoint=host:port`: at most `CHANNEL_MAX`
/// bytes.
pub type Channel = heapless::String<CHANNEL_MAX>;

/// What a client asks for when it connects. Two connect requests that are equal in this are the
/// same request, sent twice.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Request {
    /// The client's number for the request, echoed in every answer to it.
    pub correlation_id: i64,
    /// The stream of its egress.
    pub response_stream_id: i32,
    /// The channel of its egress.
    pub response_channel: Channel,
}

impl Request {
    /// Two requests are the same if their digests are equal: 64-bit FNV-1a over all fields.
    pub fn digest(&self) -> u64 {
        let mut sum = Fnv::new();
        sum.number(self.correlation_id);
        sum.number(i64::from(self.response_stream_id));
        sum.bytes(self.response_channel.as_bytes());
        sum.0
    }
}

/// One open session. Every field is a function of the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Session {
    /// The position of its open event.
    pub id: SessionId,
    /// What the client asked for.
    pub request: Request,
    /// Who the client is.
    pub principal: Principal,
    /// The timestamp of its open event.
    pub opened_at: Timestamp,
}

/// What applying an open event did. Decided here and nowhere else, so alike on every member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Opened {
    /// The session is open.
    Yes,
    /// There is no place: the session never was. Its client is refused by the leader.
    TableFull,
    /// An equal request has an open session already, or the event is not newer than all before it.
    Duplicate,
    /// The event names a channel or a principal longer than this version keeps.
    Invalid,
}

/// At most `N` open sessions in the order of their ids, which is the order in which they were
/// opened.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SessionTable<const N: usize> {
    sessions: heapless::Vec<Session, N>,
}

impl<const N: usize> SessionTable<N> {
    /// No session.
    pub const fn new() -> Self {
        Self {
            sessions: heapless::Vec::new(),
        }
    }

    /// Applies an open event. Looks at every session once.
    pub fn apply_open(&mut self, session: Session) -> Opened {
        // Positions in the log ascend, so an id that is not the highest was applied before.
        let is_newest = self.sessions.last().is_none_or(|last| last.id < session.id);
        if !is_newest || self.find(&session.request).is_some() {
            return Opened::Duplicate;
        }
        match self.sessions.push(session) {
            Ok(()) => Opened::Yes,
            Err(_) => Opened::TableFull,
        }
    }

    /// Applies a close event; `None` if no such session is open: it has been closed before.
    pub fn apply_close(&mut self, id: SessionId) -> Option<Session> {
        let index = self.index_of(id)?;
        Some(self.sessions.remove(index))
    }

    /// The session with this id.
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(self.index_of(id)?)
    }

    /// The session that was opened for an equal request. Looks at every session once.
    pub fn find(&self, request: &Request) -> Option<&Session> {
        let digest = request.digest();
        self.sessions
            .iter()
            .find(|session| session.request.digest() == digest)
    }

    /// Is there an open session with this id?
    pub fn contains(&self, id: SessionId) -> bool {
        self.index_of(id).is_some()
    }

    /// The open sessions, by ascending id.
    pub fn iter(&self) -> core::slice::Iter<'_, Session> {
        self.sessions.iter()
    }

    /// How many sessions are open.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Is no session open?
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// A digest of the whole table, for comparing members at equal positions: 64-bit FNV-1a over
    /// the fields as little-endian integers and length-prefixed bytes, so alike on every machine.
    pub fn digest(&self) -> u64 {
        let mut sum = Fnv::new();
        for session in &self.sessions {
            sum.number(session.id.to_wire());
            sum.number(session.request.correlation_id);
            sum.number(i64::from(session.request.response_stream_id));
            sum.bytes(session.request.response_channel.as_bytes());
            sum.bytes(&session.principal);
            sum.number(session.opened_at.0);
        }
        sum.0
    }

    fn index_of(&self, id: SessionId) -> Option<usize> {
        self.sessions
            .binary_search_by_key(&id, |session| session.id)
            .ok()
    }
}

impl<'a, const N: usize> IntoIterator for &'a SessionTable<N> {
    type Item = &'a Session;
    type IntoIter = core::slice::Iter<'a, Session>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Fowler, Noll, Vo: FNV-1a, 64 bits. Detects differences, resists nobody.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn number(&mut self, value: i64) {
        self.raw(&value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as i64);
        self.raw(bytes);
    }

    fn raw(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Position;
    use core::fmt::Write as _;

    fn session(at: u64, correlation_id: i64) -> Session {
        let mut response_channel = Channel::new();
        write!(
            response_channel,
            "aeron:udp?endpoint=10.0.0.1:{correlation_id}"
        )
        .unwrap();
        Session {
            id: SessionId::new(Position::new(at)),
            request: Request {
                correlation_id,
                response_stream_id: 102,
                response_channel,
            },
            principal: Principal::from_slice(b"p").unwrap(),
            opened_at: Timestamp(5),
        }
    }

    fn id(at: u64) -> SessionId {
        SessionId::new(Position::new(at))
    }

    #[test]
    fn full_duplicate_and_unknown_are_decided_by_apply() {
        let mut table = SessionTable::<2>::new();
        assert_eq!(table.apply_open(session(32, 1)), Opened::Yes);
        assert_eq!(table.apply_open(session(32, 9)), Opened::Duplicate);
        assert_eq!(table.apply_open(session(64, 1)), Opened::Duplicate);
        assert_eq!(table.apply_open(session(96, 2)), Opened::Yes);
        assert_eq!(table.apply_open(session(128, 3)), Opened::TableFull);
        assert_eq!(table.apply_close(id(128)), None);
        assert_eq!(table.apply_close(id(32)).unwrap().request.correlation_id, 1);
        assert_eq!(table.apply_close(id(32)), None);
        assert_eq!(table.len(), 1);
        // The closed session's request may come again: it is a new session.
        assert_eq!(table.apply_open(session(160, 1)), Opened::Yes);
    }

    #[test]
    fn the_digest_follows_every_field() {
        let mut tables: [SessionTable<2>; 4] = core::array::from_fn(|_| SessionTable::new());
        tables[0].apply_open(session(32, 1));
        tables[1].apply_open(session(64, 1));
        tables[2].apply_open(session(32, 2));
        tables[3].apply_open(Session {
            opened_at: Timestamp(6),
            ..session(32, 1)
        });
        for (i, a) in tables.iter().enumerate() {
            assert_eq!(a.digest(), a.clone().digest());
            for b in tables.iter().skip(i + 1) {
                assert_ne!(a.digest(), b.digest());
            }
        }
    }
}
