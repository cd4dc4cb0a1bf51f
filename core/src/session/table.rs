//! The replicated table of open sessions.

use crate::limits::CHANNEL_MAX;
use crate::list;
use crate::lookup::{Lookup, Places, salted};
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
///
/// Each stays where it is for as long as it is open: only numbers are moved.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SessionTable<const N: usize> {
    places: [Option<Placed>; N],
    /// Places by ascending session.
    order: heapless::Vec<(SessionId, u16), N>,
    vacant: Places<N>,
    /// Places by the digests of their requests.
    requests: Lookup<N>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Placed {
    digest: u64,
    session: Session,
}

impl<const N: usize> SessionTable<N> {
    /// No session.
    pub fn new() -> Self {
        let mut table = Self::vacant();
        table.clear();
        table
    }

    /// No session, and no place for any before it is cleared.
    pub const fn vacant() -> Self {
        Self {
            places: [const { None }; N],
            order: heapless::Vec::new(),
            vacant: Places::new(),
            requests: Lookup::new(),
        }
    }

    /// Closes all sessions.
    pub fn clear(&mut self) {
        self.places.fill_with(|| None);
        self.order.clear();
        self.vacant = Places::first(N);
        self.requests = Lookup::new();
    }

    /// Applies an open event.
    pub fn apply_open(&mut self, session: Session) -> Opened {
        let (id, digest) = (session.id, session.request.digest());
        // Positions in the log ascend, so an id that is not the highest was applied before.
        let is_newest = self.order.last().is_none_or(|(last, _)| *last < id);
        if !is_newest || self.place_of(digest).is_some() {
            return Opened::Duplicate;
        }
        let vacant = self.vacant.next(0);
        let Some((place, room)) = vacant.and_then(|p| Some((p, self.places.get_mut(p)?))) else {
            return Opened::TableFull;
        };
        // As many as there are places.
        if self.order.push((id, place as u16)).is_err() {
            return Opened::TableFull;
        }
        *room = Some(Placed { digest, session });
        self.vacant.remove(place);
        self.requests.insert(spread(digest), place);
        Opened::Yes
    }

    /// Applies a close event; `None` if no such session is open: it has been closed before. Moves
    /// the numbers of those that were opened later.
    pub fn apply_close(&mut self, id: SessionId) -> Option<Session> {
        let index = self.index_of(id)?;
        let (_, place) = list::take(&mut self.order, index)?;
        let place = usize::from(place);
        let closed = self.places.get_mut(place)?.take()?;
        self.vacant.insert(place);
        let places = &self.places;
        let hash_of = |other: usize| {
            let placed = places.get(other).and_then(Option::as_ref);
            spread(placed.map_or(0, |placed| placed.digest))
        };
        self.requests.remove(spread(closed.digest), place, hash_of);
        Some(closed.session)
    }

    /// The session with this id.
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        let (_, place) = self.order.get(self.index_of(id)?)?;
        self.at(usize::from(*place)).map(|placed| &placed.session)
    }

    /// The id of the session with this number in the order of ids, from 0 on.
    pub fn id_at(&self, index: usize) -> Option<SessionId> {
        self.order.get(index).map(|(id, _)| *id)
    }

    /// The session that was opened for an equal request.
    pub fn find(&self, request: &Request) -> Option<&Session> {
        let place = self.place_of(request.digest())?;
        self.at(place).map(|placed| &placed.session)
    }

    /// Is there an open session with this id?
    pub fn contains(&self, id: SessionId) -> bool {
        self.index_of(id).is_some()
    }

    /// The open sessions, by ascending id.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        let placed = self.order.iter();
        placed.filter_map(|(_, place)| Some(&self.at(usize::from(*place))?.session))
    }

    /// How many sessions are open.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Is no session open?
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// A digest of the whole table, for comparing members at equal positions: 64-bit FNV-1a over
    /// the fields as little-endian integers and length-prefixed bytes, so alike on every machine.
    pub fn digest(&self) -> u64 {
        let mut sum = Fnv::new();
        for session in self.iter() {
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
        self.order.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    fn at(&self, place: usize) -> Option<&Placed> {
        self.places.get(place)?.as_ref()
    }

    fn place_of(&self, digest: u64) -> Option<usize> {
        let is = |place| self.at(place).is_some_and(|placed| placed.digest == digest);
        self.requests.find(spread(digest), is)
    }
}

impl<const N: usize> Default for SessionTable<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// A digest follows from what a client says, and where it lies shall too: the table is replicated,
/// so there is no salt. Who makes digests that lie together makes connecting slow, not wrong.
const fn spread(digest: u64) -> u64 {
    salted(digest, 0)
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
    extern crate std;

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

    /// As many as a large node has, opened and closed at random, against a list.
    #[test]
    fn a_large_table_is_a_list_in_the_order_of_opening() {
        const MANY: usize = 1_056;
        let mut prng = crate::prng::Prng::new(3);
        let mut table = std::boxed::Box::new(SessionTable::<MANY>::new());
        let mut model: std::vec::Vec<(u64, i64)> = std::vec::Vec::new();
        for step in 1..12_000u64 {
            let correlation = prng.below(3_000) as i64;
            let known = model.iter().position(|(_, c)| *c == correlation);
            let found = table.find(&session(1, correlation).request).map(|s| s.id);
            assert_eq!(found, known.map(|at| id(model[at].0 * 32)));
            // Fills up, is emptied, and fills up again.
            let opens = prng.below(10) < if step % 6_000 < 3_000 { 9 } else { 2 };
            if opens {
                let expected = match known {
                    Some(_) => Opened::Duplicate,
                    None if model.len() == MANY => Opened::TableFull,
                    None => Opened::Yes,
                };
                let opened = table.apply_open(session(step * 32, correlation));
                assert_eq!(opened, expected);
                if opened == Opened::Yes {
                    model.push((step, correlation));
                }
            } else if let Some(at) = (prng.below(8) as usize * 131).checked_rem(model.len()) {
                let (opened_at, correlation) = model.remove(at);
                let closed = table.apply_close(id(opened_at * 32)).unwrap();
                assert_eq!(closed.request.correlation_id, correlation);
                assert!(!table.contains(id(opened_at * 32)));
            }
            assert_eq!(table.len(), model.len());
        }
        let listed = table.iter().map(|s| (s.id, s.request.correlation_id));
        assert!(listed.eq(model.iter().map(|(at, c)| (id(at * 32), *c))));
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
