//! Positions, terms and identities as types, so that none is taken for another.
//!
//! Arithmetic is only through named methods. Nothing here panics on a value that came from outside:
//! constructors that take wire integers return `Option`.

use core::fmt;

use crate::limits::{FRAME_ALIGNMENT, MEMBERS_MAX, POSITION_MAX, SERVICES_MAX};

/// A byte offset in the cluster's one append-only stream: 0 to `POSITION_MAX`, never wraps.
///
/// The same word is used for offsets in an Aeron stream (ingress, egress), which start at 0 as
/// well.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Position(u64);

impl Position {
    /// The first byte.
    pub const ZERO: Self = Self(0);
    /// The largest position there is; no log reaches it.
    pub const MAX: Self = Self(POSITION_MAX);

    /// A position we computed ourselves, at most `POSITION_MAX` (larger values saturate there).
    pub const fn new(value: u64) -> Self {
        Self(if value > POSITION_MAX {
            POSITION_MAX
        } else {
            value
        })
    }

    /// A position as it stands on the wire; `None` if negative or too large.
    pub const fn from_wire(value: i64) -> Option<Self> {
        if value < 0 || value as u64 > POSITION_MAX {
            None
        } else {
            Some(Self(value as u64))
        }
    }

    /// The value as it stands on the wire.
    pub const fn to_wire(self) -> i64 {
        self.0 as i64
    }

    /// The value in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// `len` bytes further on, saturating at `POSITION_MAX`.
    #[must_use]
    pub const fn plus(self, len: u64) -> Self {
        // Of every frame again and again: what is left above is added, or all of it.
        let left = POSITION_MAX - self.0;
        Self(self.0 + if len < left { len } else { left })
    }

    /// `len` bytes back, saturating at 0.
    #[must_use]
    pub const fn minus(self, len: u64) -> Self {
        Self(self.0.saturating_sub(len))
    }

    /// How many bytes `self` is past `earlier`; 0 if it is not.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Is this a place where a frame may start?
    pub const fn is_aligned(self) -> bool {
        self.0.is_multiple_of(FRAME_ALIGNMENT as u64)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A leadership term (Raft's term, Aeron's `leadershipTermId`). 0 is "before the first election".
///
/// 32 bits, because a log frame names its term in the 32-bit session id of its Aeron header. The
/// largest 31-bit value is the limit, so the number is the same in every field that carries it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Term(u32);

impl Term {
    /// Before the first election.
    pub const ZERO: Self = Self(0);

    /// A term we computed ourselves (values above `i32::MAX` saturate there).
    pub const fn new(value: u32) -> Self {
        Self(if value > i32::MAX as u32 {
            i32::MAX as u32
        } else {
            value
        })
    }

    /// A term as it stands in an SBE field; `None` if negative or too large.
    pub const fn from_wire(value: i64) -> Option<Self> {
        if value < 0 || value > i32::MAX as i64 {
            None
        } else {
            Some(Self(value as u32))
        }
    }

    /// A term as it stands in the session id of a log frame; `None` if negative.
    pub const fn from_session_id(value: i32) -> Option<Self> {
        Self::from_wire(value as i64)
    }

    /// The value as it stands in an SBE field.
    pub const fn to_wire(self) -> i64 {
        self.0 as i64
    }

    /// The value as it stands in the session id of a log frame.
    pub const fn to_session_id(self) -> i32 {
        self.0 as i32
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The term after this one; saturates at the largest.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::new(self.0.saturating_add(1))
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One of the 1 to `MEMBERS_MAX` members of a cluster: also its slot in every per-member table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct MemberId(u8);

impl MemberId {
    /// The lowest.
    pub const FIRST: Self = Self(0);

    /// `None` unless `id` is below `MEMBERS_MAX`.
    pub const fn new(id: u8) -> Option<Self> {
        if (id as usize) < MEMBERS_MAX {
            Some(Self(id))
        } else {
            None
        }
    }

    /// A member id as it stands on the wire; `None` if out of range.
    pub const fn from_wire(id: i32) -> Option<Self> {
        if id < 0 || id > u8::MAX as i32 {
            None
        } else {
            Self::new(id as u8)
        }
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The slot in a `[T; MEMBERS_MAX]` table; always in range.
    pub const fn slot(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A set of members, as a bit mask.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct MemberSet(u8);

/// How many bits are set in each byte: not every processor has an instruction for that.
const ONES: [u8; 256] = {
    let mut ones = [0; 256];
    let mut byte = 1;
    while byte < ones.len() {
        ones[byte] = ones[byte / 2] + (byte % 2) as u8;
        byte += 1;
    }
    ones
};

impl MemberSet {
    /// No member.
    pub const EMPTY: Self = Self(0);

    /// Members 0 to `count` - 1 (at most `MEMBERS_MAX`).
    pub const fn first(count: usize) -> Self {
        let count = if count > MEMBERS_MAX {
            MEMBERS_MAX
        } else {
            count
        };
        Self(((1u16 << count) - 1) as u8)
    }

    /// Puts `member` in.
    pub const fn insert(&mut self, member: MemberId) {
        self.0 |= 1 << member.0;
    }

    /// Takes `member` out.
    pub const fn remove(&mut self, member: MemberId) {
        self.0 &= !(1 << member.0);
    }

    /// Is `member` in it?
    pub const fn contains(self, member: MemberId) -> bool {
        self.0 & (1 << member.0) != 0
    }

    /// How many members are in it.
    pub const fn len(self) -> usize {
        ONES[self.0 as usize] as usize
    }

    /// Is no member in it?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many of these members are a majority (Raft: "a majority of the servers").
    pub const fn quorum(self) -> usize {
        self.len() / 2 + 1
    }

    /// The first member.
    pub const fn lowest(self) -> Option<MemberId> {
        match self.is_empty() {
            true => None,
            false => Some(MemberId(self.0.trailing_zeros() as u8)),
        }
    }

    /// The first member behind `last`.
    pub const fn after(self, last: MemberId) -> Option<MemberId> {
        let behind = self.0 & !(u8::MAX >> (7 - last.0));
        if behind == 0 {
            return None;
        }
        Some(MemberId(behind.trailing_zeros() as u8))
    }

    /// The members, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = MemberId> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let lowest = (left != 0).then(|| MemberId(left.trailing_zeros() as u8))?;
            left &= left - 1;
            Some(lowest)
        })
    }
}

impl fmt::Debug for MemberSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Names one cluster among all: seeds the log's chain and is in every member message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ClusterId(pub u64);

/// Names one life of one member's data directory. `init` gives every member `FIRST`; a directory
/// that appears in any other way has a random one, and counts for nothing until re-admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// What `init` writes for every member of a new cluster.
    pub const FIRST: Self = Self(1);
}

/// A client session: the log position of its open event, so there is no counter to roll back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SessionId(Position);

impl SessionId {
    /// The session that was opened by the record at `opened_at`.
    pub const fn new(opened_at: Position) -> Self {
        Self(opened_at)
    }

    /// A session id as it stands on the wire; `None` if negative or too large.
    pub const fn from_wire(value: i64) -> Option<Self> {
        match Position::from_wire(value) {
            Some(position) => Some(Self(position)),
            None => None,
        }
    }

    /// The value as it stands on the wire.
    pub const fn to_wire(self) -> i64 {
        self.0.to_wire()
    }

    /// Where the session's open event is in the log.
    pub const fn opened_at(self) -> Position {
        self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One of the services that run on the same log, from 0 to `SERVICES_MAX - 1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ServiceId(u8);

impl ServiceId {
    /// `None` from `SERVICES_MAX` on.
    pub const fn new(value: u8) -> Option<Self> {
        if (value as usize) < SERVICES_MAX {
            Some(Self(value))
        } else {
            None
        }
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Its place in tables.
    pub const fn slot(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One part of a snapshot set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Section {
    /// Sessions, members, and what makes the set complete: written last to its end.
    Consensus,
    /// One service, with its timers and its unsent messages.
    Service(ServiceId),
}

impl Section {
    /// The number in its begin mark: 0, or 1 and the service's.
    pub const fn to_wire(self) -> u16 {
        match self {
            Self::Consensus => 0,
            Self::Service(service) => 1 + service.get() as u16,
        }
    }

    /// The section of a number.
    pub const fn from_wire(number: u16) -> Option<Self> {
        if number == 0 {
            return Some(Self::Consensus);
        }
        if number > u8::MAX as u16 {
            return None;
        }
        match ServiceId::new(number as u8 - 1) {
            Some(service) => Some(Self::Service(service)),
            None => None,
        }
    }
}

/// A message that a service has offered into the log: the service, and its number among that
/// service's messages, from 1 on (Aeron: `PendingServiceMessageTracker`).
///
/// On the wire it stands where a client's session id stands, negative: bit 63 set, the service in
/// bits 56 to 62, the number below.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ServiceMessageId {
    /// Who offered it.
    pub service: ServiceId,
    /// Its number.
    pub number: u64,
}

impl ServiceMessageId {
    const NUMBER_BITS: u32 = 56;

    /// An id as it stands on the wire; `None` if it is a client's, or of no service of ours.
    pub const fn from_wire(value: i64) -> Option<Self> {
        let bits = value as u64;
        let service = ((bits >> Self::NUMBER_BITS) & 0x7f) as u8;
        match ServiceId::new(service) {
            Some(service) if value < 0 => {
                let number = bits & ((1 << Self::NUMBER_BITS) - 1);
                Some(Self { service, number })
            }
            _ => None,
        }
    }

    /// The value as it stands on the wire.
    pub const fn to_wire(self) -> i64 {
        let service = (self.service.0 as u64) << Self::NUMBER_BITS;
        let number = self.number & ((1 << Self::NUMBER_BITS) - 1);
        (1 << 63 | service | number) as i64
    }
}

/// "While joined to `term`, every byte below `position` agrees with that leader's log and has been
/// flushed." `term` is the joined leadership, never the term of the last frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Mark {
    /// The leadership this member has joined.
    pub term: Term,
    /// The end of what is durable.
    pub position: Position,
}

/// The last frame of a log, as elections compare it: Raft 5.4.1, first the term, then the length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Tail {
    /// The term of the last frame; zero in an empty log.
    pub term: Term,
    /// The end of the log.
    pub end: Position,
}

/// The version of an application: major, minor and patch number, in one number as Aeron has it
/// (`SemanticVersion`: eight bits for each).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct AppVersion(i32);

impl AppVersion {
    /// A version.
    pub const fn new(major: u8, minor: u8, patch: u8) -> Self {
        Self(i32::from_be_bytes([0, major, minor, patch]))
    }

    /// As it stands on the wire: any number; what is above the major number's bits is kept.
    pub const fn from_wire(value: i32) -> Self {
        Self(value)
    }

    /// The value as it stands on the wire.
    pub const fn to_wire(self) -> i32 {
        self.0
    }

    /// The major number: members that differ in it cannot work together.
    pub const fn major(self) -> i32 {
        self.0 >> 16
    }
}

impl fmt::Display for AppVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [.., minor, patch] = self.0.to_be_bytes();
        write!(f, "{}.{minor}.{patch}", self.major())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wire_integer_out_of_range_is_none() {
        assert_eq!(Position::from_wire(-1), None);
        assert_eq!(Position::from_wire(i64::MAX), None);
        assert_eq!(Term::from_wire(-1), None);
        assert_eq!(Term::from_wire(1 << 31), None);
        assert_eq!(MemberId::from_wire(MEMBERS_MAX as i32), None);
        assert_eq!(MemberId::from_wire(256), None);
    }

    #[test]
    fn the_id_of_a_service_message_is_negative_and_comes_back() {
        let service = ServiceId::new(9).unwrap();
        let id = ServiceMessageId { service, number: 7 };
        assert!(id.to_wire() < 0);
        assert_eq!(ServiceMessageId::from_wire(id.to_wire()), Some(id));
        assert_eq!(SessionId::from_wire(id.to_wire()), None);
        assert_eq!(ServiceMessageId::from_wire(64), None);
        assert_eq!(ServiceMessageId::from_wire(-1), None, "service 127");
    }

    #[test]
    fn a_quorum_is_more_than_half() {
        let sizes: [usize; MEMBERS_MAX] =
            core::array::from_fn(|n| MemberSet::first(n + 1).quorum());
        assert_eq!(sizes, [1, 2, 2, 3, 3, 4, 4][..MEMBERS_MAX]);
    }

    #[test]
    fn who_is_behind_another_is_the_next_of_the_set() {
        for bits in 0..1u8 << MEMBERS_MAX {
            let set = MemberSet(bits);
            for last in 0..MEMBERS_MAX as u8 {
                let next = set.iter().find(|member| member.0 > last);
                assert_eq!(set.after(MemberId(last)), next, "{set:?} {last}");
            }
        }
    }

    #[test]
    fn tails_compare_by_term_before_length() {
        let long = Tail {
            term: Term::new(2),
            end: Position::new(3200),
        };
        let new = Tail {
            term: Term::new(3),
            end: Position::new(32),
        };
        assert!(new > long);
    }
}
